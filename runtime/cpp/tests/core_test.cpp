// SHA-256 against the published vectors of FIPS 180-4 and NIST's examples, whole and in pieces of every size.
#include <algorithm>
#include <cstdio>
#include <string>

#include "dmdkit/sha256.hpp"
#include "dmdkit/version.h"

namespace {

int failures = 0;

void expect_equal(const std::string& found, const std::string& expected, const char* what) {
  if (found == expected) return;
  std::fprintf(stderr, "FAILED %s: found %s, expected %s\n", what, found.c_str(), expected.c_str());
  ++failures;
}

std::string hash_in_pieces(const std::string& text, std::size_t piece) {
  dmdkit::Sha256 hash;
  for (std::size_t at = 0; at < text.size(); at += piece) hash.update(text.data() + at, std::min(piece, text.size() - at));
  return hash.hex_digest();
}

}  // namespace

int main() {
  const std::string two_blocks = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
  expect_equal(hash_in_pieces("", 1), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "empty");
  expect_equal(hash_in_pieces("abc", 3), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "abc");
  for (std::size_t piece = 1; piece <= two_blocks.size(); ++piece) {
    expect_equal(hash_in_pieces(two_blocks, piece), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
                 "two blocks");
  }
  expect_equal(hash_in_pieces(std::string(1000000, 'a'), 4096),
               "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", "a million a");
  if (std::string(DMDKIT_VERSION_STRING).empty()) ++failures;
  if (failures == 0) std::printf("core: all vectors match, dmdkit %s\n", DMDKIT_VERSION_STRING);
  return failures == 0 ? 0 : 1;
}
