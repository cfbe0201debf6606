#include "arguments.hpp"

#include <algorithm>
#include <cstdlib>

namespace dmdkit {
namespace {

constexpr std::uint64_t kMostThreads = 1024;  // as many as the runtime takes

// Groups of processors as ONNX Runtime reads them, "1;2", "1,2;3-4": one for each worker thread besides the caller's.
bool is_affinity(const std::string& text) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (is_digit(text[i])) continue;
    const bool between = i > 0 && i + 1 < text.size() && is_digit(text[i - 1]) && is_digit(text[i + 1]);
    if (!between || (text[i] != ';' && text[i] != ',' && text[i] != '-')) return false;
  }
  return !text.empty();
}

bool parse_number(const std::string& text, std::uint64_t& value) {
  char* end = nullptr;
  value = std::strtoull(text.c_str(), &end, 10);
  return !text.empty() && text[0] >= '0' && text[0] <= '9' && *end == '\0' && value > 0 && value <= (1ULL << 40);
}

}  // namespace

const char kUsage[] =
    "usage: dmdkit-run BUNDLE [--input FILE] [--graph NAME] [...]\n"
    "\n"
    "Runs a bundle on recorded features and writes the answers.\n"
    "\n"
    "  --input FILE       .safetensors with text, audio, vision, each (samples, steps, features);\n"
    "                     without it the bundle's golden samples\n"
    "  --words FILE       sentences instead of text features, for a bundle with a text encoder: a line for each sample, or in "
    "a\n"
    "                     file that ends in .json a list of strings or of lists of token ids\n"
    "  --split NAME       read NAME/text or NAME_text ... instead of text ...\n"
    "  --output FILE      write the answers as safetensors, and only what gave them as JSON on standard output\n"
    "  --explain          also unimodal logits and edges\n"
    "  --stream           push each sample step by step and print a line of JSON for every step that has an answer\n"
    "  --graph NAME       a precision (fp32, int8-cpu) or a full name; default: the preferred one that passed parity\n"
    "  --batch N          samples per call (1)\n"
    "  --threads N        threads inside one prediction (1)\n"
    "  --device NAME      auto, cpu or cuda\n"
    "  --spin yes|no      whether idle worker threads spin; without it as the backend likes\n"
    "  --affinity LIST    processors of the worker threads besides the caller's, \"1;2\"\n"
    "  --provider-option KEY=VALUE   handed to the execution provider; may be given more than once\n"
    "  --self-check       replay the golden samples and compare; exit 2 if the check does not pass\n"
    "  --every-graph      with --self-check: all graphs of the bundle\n"
    "  --bench            time predictions on the input's samples in turn and print the quantiles\n"
    "  --rounds N         predictions of --bench (1000)\n"
    "  --deadline-us N    count slower predictions\n"
    "  --backend NAME, --backend-directory DIR\n"
    "\n"
    "Exit codes: 0 good, 1 an error, 2 a self-check that did not pass.\n";

bool parse_arguments(int argc, char** argv, Arguments& arguments, std::string& problem) {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto flag = [&](const char* name, bool& target) { return word == name && (target = true); };
    if (flag("--help", arguments.help) || flag("-h", arguments.help)) return true;
    if (flag("--explain", arguments.explain) || flag("--self-check", arguments.self_check) ||
        flag("--bench", arguments.bench) || flag("--stream", arguments.stream) ||
        flag("--every-graph", arguments.every_graph)) {
      continue;
    }
    if (word.rfind("--", 0) != 0) {
      if (!arguments.bundle.empty()) return problem = "one bundle at a time: " + word, false;
      arguments.bundle = word;
      continue;
    }
    if (i + 1 >= argc) return problem = word + " needs a value, or is not known", false;
    const std::string value = argv[++i];
    std::uint64_t number = 0;
    const auto counted = [&](const char* name) {
      return word == name && (parse_number(value, number) || (problem = word, false));
    };
    if (word == "--input") {
      arguments.input = value;
    } else if (word == "--words") {
      arguments.words = value;
    } else if (word == "--split") {
      arguments.split = value;
    } else if (word == "--output") {
      arguments.output = value;
    } else if (word == "--graph") {
      arguments.options.graph = value;
    } else if (word == "--device") {
      arguments.options.device = value;
    } else if (word == "--spin") {
      if (value != "yes" && value != "no") return problem = "--spin " + value + ": expected yes or no", false;
      arguments.options.spin = value == "yes";
    } else if (word == "--affinity") {
      if (!is_affinity(value)) {
        return problem = "--affinity " + value + ": expected processors of each worker thread, like 1;2 or 1,2;3-4", false;
      }
      arguments.options.affinity = value;
    } else if (word == "--provider-option") {
      const std::size_t equals = value.find('=');
      if (equals == std::string::npos || equals == 0) {
        return problem = "--provider-option " + value + ": expected KEY=VALUE", false;
      }
      arguments.options.provider_options[value.substr(0, equals)] = value.substr(equals + 1);
    } else if (word == "--backend") {
      arguments.options.backend = value;
    } else if (word == "--backend-directory") {
      arguments.options.backend_directory = value;
    } else if (counted("--batch")) {
      arguments.batch = number;
    } else if (counted("--threads")) {
      if (number > kMostThreads) {
        return problem = word + " " + value + ": expected at most " + std::to_string(kMostThreads), false;
      }
      arguments.options.threads = static_cast<int>(number);
    } else if (counted("--rounds")) {
      arguments.rounds = number;
    } else if (counted("--deadline-us")) {
      arguments.options.deadline_us = number;
    } else {
      problem = problem.empty() ? "unknown option " + word : word + " " + value + ": expected a positive number";
      return false;
    }
  }
  if (arguments.bundle.empty()) problem = "no bundle given";
  if (problem.empty() && arguments.every_graph && !arguments.self_check) problem = "--every-graph needs --self-check";
  if (problem.empty() && arguments.stream) {
    const std::pair<const char*, bool> others[] = {{"--self-check", arguments.self_check}, {"--explain", arguments.explain},
                                                   {"--bench", arguments.bench},           {"--words", !arguments.words.empty()},
                                                   {"--output", !arguments.output.empty()}, {"--batch", arguments.batch != 1}};
    for (const auto& [name, given] : others) {
      if (given) problem = std::string("--stream prints a line for every step and takes no ") + name;
    }
  }
  if (problem.empty() && !arguments.options.affinity.empty()) {
    const auto groups = std::count(arguments.options.affinity.begin(), arguments.options.affinity.end(), ';') + 1;
    if (groups != arguments.options.threads - 1) {
      problem = "--affinity " + arguments.options.affinity +
                ": expected a group of processors for each thread but the first, " +
                std::to_string(arguments.options.threads - 1) + " with --threads " + std::to_string(arguments.options.threads) +
                ", found " + std::to_string(groups);
    }
  }
  return problem.empty();
}

}  // namespace dmdkit
