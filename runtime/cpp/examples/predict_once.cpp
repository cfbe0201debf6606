// Opens a bundle, checks it on this machine, predicts once and says why.   predict_once BUNDLE
#include <cstdio>
#include <vector>

#include "dmdkit/runtime.hpp"

namespace {

int report(const dmdkit::Status& status) {
  std::fprintf(stderr, "%s: %s\n", dmdkit::status_code_name(status.code()), status.message().c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: predict_once BUNDLE\n"), 1;
  auto runtime = dmdkit::Runtime::open(argv[1]);
  if (!runtime) return report(runtime.status());

  const auto check = runtime->self_check();
  if (!check) return report(check.status());
  std::printf("%s with %s, self-check %s on %zu samples\n", runtime->graph().c_str(), runtime->backend().c_str(),
              check->passed ? "passed" : "FAILED", check->samples);

  // A robot would put its features here; a small constant is not padding (padding is exactly zero).
  std::vector<std::vector<float>> features;
  for (const dmdkit::InputInfo& info : runtime->inputs()) features.emplace_back(info.steps * info.features, 0.1F);
  const dmdkit::Inputs inputs{features[0], features[1], features[2]};

  const auto prediction = runtime->predict(inputs);
  if (!prediction) return report(prediction.status());
  std::printf("score %.4f in %.2f ms\n", prediction->score[0], prediction->latency_ms);

  const auto why = runtime->explain(inputs);
  if (!why) return report(why.status());
  for (std::size_t i = 0; i < why->edges_homo.size(); ++i) {
    std::printf("%-16s %.3f\n", runtime->edge_order()[i].c_str(), why->edges_homo[i]);
  }
  return check->passed ? 0 : 2;
}
