// What goes wrong at three in the morning: a backend that is gone or half written, files that cannot be read.
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "backend_library.hpp"
#include "bundle_fixture.hpp"
#include "files.hpp"

namespace dmdkit {
namespace {

class BackendFileTest : public BundleTest {
 protected:
  std::string library() const { return folder + "/libdmdkit_fake.so"; }
  Options local() const {
    Options with = options();
    with.backend_directory = folder;
    return with;
  }
  void copy_library() { std::filesystem::copy_file(std::string(DMDKIT_TEST_BACKENDS) + "/libdmdkit_fake.so", library()); }
};

TEST_F(BackendFileTest, AMissingBackendIsAStatus) {
  const Status status = open_status(local());
  EXPECT_EQ(status.code(), StatusCode::kBackendUnavailable);
  EXPECT_NE(status.message().find("is missing"), std::string::npos) << status.message();
}

TEST_F(BackendFileTest, ATruncatedBackendIsAStatusNotASignal) {
  copy_library();
  const auto whole = std::filesystem::file_size(library());
  for (const auto size : {whole - 1, whole / 2, whole / 10, std::uintmax_t{64}, std::uintmax_t{0}}) {
    std::filesystem::resize_file(library(), size);
    EXPECT_EQ(open_status(local()).code(), StatusCode::kBackendUnavailable) << size;
  }
}

TEST_F(BackendFileTest, ABackendThatIsNoneIsAStatus) {
  std::ofstream(library()) << "#!/bin/sh\n";
  EXPECT_EQ(open_status(local()).code(), StatusCode::kBackendUnavailable);
}

TEST_F(BackendFileTest, DeletingTheBackendDoesNotStopAnOpenRuntime) {
  copy_library();
  auto runtime = Runtime::open(folder, local());
  ASSERT_TRUE(runtime.ok()) << runtime.status().message();
  std::filesystem::remove(library());
  EXPECT_TRUE(runtime->predict(inputs()).ok());
  EXPECT_EQ(runtime->explain(inputs()).code(), StatusCode::kBackendUnavailable);  // would have to load it
  EXPECT_TRUE(runtime->predict(inputs()).ok());
}

TEST_F(BackendFileTest, BackendNamesCannotLeaveTheirFolder) {
  for (const char* name : {"", "../x", "a/b", "a.so", "A"}) {
    Options with = options();
    with.backend = name;
    EXPECT_EQ(open_status(with).code(), StatusCode::kInvalidInput) << name;
  }
}

TEST_F(BackendFileTest, AnUnreadableFileIsAStatus) {
  constexpr uid_t kNobody = 65534;
  std::filesystem::permissions(folder, std::filesystem::perms::owner_all | std::filesystem::perms::others_all);
  const bool root = ::geteuid() == 0;  // reads everything, so it steps down
  for (const char* file : {"/manifest.json", "/graphs/fusion.int8-cpu.onnx"}) {
    std::filesystem::permissions(folder + file, std::filesystem::perms::none);
    ASSERT_TRUE(!root || ::seteuid(kNobody) == 0);
    const Status status = open_status();
    ASSERT_TRUE(!root || ::seteuid(0) == 0);
    EXPECT_EQ(status.code(), StatusCode::kFileUnreadable) << status.message();
    EXPECT_NE(status.message().find("cannot be read: Permission denied"), std::string::npos) << status.message();
    std::filesystem::permissions(folder + file, std::filesystem::perms::owner_read | std::filesystem::perms::others_read);
  }
}

TEST_F(BackendFileTest, AFolderThatMayNotBeEnteredIsUnreadableNotMissing) {
  constexpr uid_t kNobody = 65534;
  std::filesystem::permissions(folder, std::filesystem::perms::owner_all | std::filesystem::perms::others_all);
  const bool root = ::geteuid() == 0;
  for (const std::string& closed : {folder + "/graphs", folder}) {
    std::filesystem::permissions(closed, std::filesystem::perms::none);
    ASSERT_TRUE(!root || ::seteuid(kNobody) == 0);
    const Status status = open_status();
    ASSERT_TRUE(!root || ::seteuid(0) == 0);
    EXPECT_EQ(status.code(), StatusCode::kFileUnreadable) << status.message();
    EXPECT_NE(status.message().find("cannot be read: Permission denied"), std::string::npos) << status.message();
    std::filesystem::permissions(closed, std::filesystem::perms::owner_all | std::filesystem::perms::others_all);
  }
}

TEST_F(BackendFileTest, OpensAReadOnlyBundleUnderANameThatIsNotAscii) {
  const std::string place = folder + "/Gesichter-Gefühl 感情 \xFF.dmd";  // and not even UTF-8
  std::filesystem::create_directory(place);
  for (const char* part : {"manifest.json", "graphs", "golden"})
    std::filesystem::rename(folder + "/" + part, place + "/" + part);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(place)) {
    std::filesystem::permissions(entry, entry.is_directory()
                                            ? std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec
                                            : std::filesystem::perms::owner_read);
  }
  std::filesystem::permissions(place, std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  auto runtime = Runtime::open(place, options());
  ASSERT_TRUE(runtime.ok()) << runtime.status().message();
  EXPECT_TRUE(runtime->predict(inputs()).ok());
  EXPECT_TRUE(runtime->explain(inputs()).ok());
  EXPECT_TRUE(runtime->self_check().ok());
  for (const char* part : {"", "/graphs", "/golden"})
    std::filesystem::permissions(place + part, std::filesystem::perms::owner_all);
}

TEST_F(BackendFileTest, AFolderInPlaceOfTheManifestIsAStatus) {
  std::filesystem::remove(folder + "/manifest.json");
  std::filesystem::create_directory(folder + "/manifest.json");
  EXPECT_EQ(open_status().code(), StatusCode::kFileUnreadable);
}

TEST_F(BackendFileTest, ALinkThatLeavesTheBundleIsAStatus) {
  const std::string file = folder + "/graphs/fusion.fp32.onnx";
  const std::string outside = folder + "-outside";
  std::filesystem::rename(file, outside);
  std::filesystem::create_symlink(outside, file);
  EXPECT_EQ(open_status().message(),
            folder + ": graphs/fusion.fp32.onnx is not a file of the bundle itself, or a link that leaves it; copy the file");
  std::filesystem::remove(file);
  std::filesystem::rename(outside, folder + "/graphs/elsewhere");
  std::filesystem::create_symlink("elsewhere", file);
  EXPECT_TRUE(open_status().ok()) << "a link within the bundle is none of our business";
}

TEST_F(BackendFileTest, AManifestThatIsALinkLeavingTheBundleIsAStatus) {
  const std::string outside = folder + "-manifest";
  std::filesystem::rename(folder + "/manifest.json", outside);
  std::filesystem::create_symlink(outside, folder + "/manifest.json");
  EXPECT_EQ(open_status().message(),
            folder + "/manifest.json: not a file of the bundle itself, or a link that leaves it; copy the file");
  std::filesystem::remove(outside);
}

TEST_F(BackendFileTest, AMissingBundleIsAStatus) {
  EXPECT_EQ(Runtime::open(folder + "/none", options()).code(), StatusCode::kBundleNotFound);
  std::filesystem::remove(folder + "/manifest.json");
  EXPECT_EQ(open_status().message(), folder + ": not a bundle: manifest.json is missing");
}

TEST(FilesTest, ALinkIsJudgedByWholeNamesOfFoldersAndTheRootHoldsAll) {
  EXPECT_TRUE(stays_inside("/proc/self/status", "/"));
  EXPECT_TRUE(folder_stays_inside("/usr/lib", "/usr"));
  EXPECT_FALSE(folder_stays_inside("/usr/lib", "/usr/li"));
  EXPECT_FALSE(folder_stays_inside("/usr", "/usr/lib"));
  EXPECT_TRUE(folder_stays_inside("/no/such", "/usr"));
}

TEST(FilesTest, ReadsNothingButRegularFilesWithinTheLimit) {
  EXPECT_EQ(read_file("/dev/zero", 10).error, EINVAL);
  EXPECT_EQ(read_file("/no/such/file", 10).error, ENOENT);
  EXPECT_TRUE(read_file("/proc/self/exe", 10).too_large);
}

}  // namespace
}  // namespace dmdkit
