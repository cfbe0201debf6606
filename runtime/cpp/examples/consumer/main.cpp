// The whole of what an application needs: open, self-check, go.   robot BUNDLE [GRAPH]
#include <cstdio>
#include <dmdkit/runtime.hpp>

int main(int argc, char** argv) {
  dmdkit::Options options;
  if (argc > 2) options.graph = argv[2];
  auto emotion = dmdkit::Runtime::open(argc > 1 ? argv[1] : "face.dmd", options);
  if (!emotion) return std::fprintf(stderr, "%s\n", emotion.status().message().c_str()), 1;
  const auto check = emotion->self_check();
  if (!check || !check->passed) return std::fprintf(stderr, "the self-check did not pass\n"), 2;
  std::printf("dmdkit %s ready: %s\n", DMDKIT_VERSION_STRING, emotion->graph().c_str());
  return 0;
}
