// dmdkit-run: a bundle and recorded features in, scores out; also the self-check and a benchmark. Used for cross-language
// parity.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "dmdkit/runtime.hpp"
#include "files.hpp"
#include "json_fields.hpp"
#include "safetensors.hpp"
#include "strict_json.hpp"
#include "words_file.hpp"

namespace {

using dmdkit::Arguments;
using dmdkit::FloatView;
using dmdkit::Runtime;
using dmdkit::Tensor;
using dmdkit::Tensors;
using Json = nlohmann::json;

constexpr int kExitError = 1;
constexpr int kExitVerdict = 2;
constexpr std::uint64_t kMaxInputBytes = std::uint64_t{8} << 30;

int complain(const std::string& message) {
  std::fprintf(stderr, "dmdkit-run: %s\n", message.c_str());
  return kExitError;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::string shell_word(const std::string& text) {
  const auto is_plain = [](unsigned char c) { return std::isalnum(c) != 0 || std::strchr("/._-+=:,@%", c) != nullptr; };
  if (std::all_of(text.begin(), text.end(), is_plain)) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

// Feature files of other formats are read by the Python package alone, which checks them and writes safetensors.
void refuse_other_formats(const std::string& path) {
  for (const char* end : {".npz", ".pkl"}) {
    if (!ends_with(path, end)) continue;
    const std::string written = path.substr(0, path.size() - std::strlen(end)) + ".safetensors";
    throw dmdkit::Malformed(path, "dmdkit-run reads safetensors; write it as such: dmdkit data convert " + shell_word(path) +
                                      " " + shell_word(written) + ", then: dmdkit-run BUNDLE --input " + shell_word(written));
  }
}

Tensors read_tensors(const std::string& path, std::set<std::string>* left_out = nullptr) {
  const dmdkit::ReadOutcome outcome = dmdkit::read_file(path, kMaxInputBytes);
  if (outcome.error != 0) throw dmdkit::Malformed(path, "cannot be read: " + dmdkit::error_text(outcome.error));
  if (outcome.too_large) throw dmdkit::Malformed(path, "larger than 8 GiB");
  try {
    return dmdkit::parse_safetensors(outcome.bytes.data(), outcome.bytes.size(), left_out);
  } catch (const dmdkit::Malformed& cause) {
    throw dmdkit::Malformed(path, cause.what());
  }
}

// The bundle's golden file; its name is in the manifest, which the runtime has checked by now.
Tensors golden_tensors(const std::string& bundle) {
  const dmdkit::ReadOutcome outcome = dmdkit::read_file(bundle + "/manifest.json", std::uint64_t{16} << 20);
  std::string problem;
  const Json manifest = dmdkit::parse_strict_json(outcome.bytes.data(), outcome.bytes.size(), problem);
  return read_tensors(bundle + "/" + manifest.at("golden").at("file").get<std::string>());
}

// The three modalities of the input, each (samples, steps, features), unless it is absent.
struct Samples {
  std::array<std::optional<Tensor>, dmdkit::kModalities> tensors;
  std::size_t count = 0;
  dmdkit::Words words;  // in place of text features
  std::vector<std::string_view> sentences;
  std::vector<dmdkit::TokenIds> ids;

  dmdkit::Inputs at(std::size_t first, std::size_t batch) const {
    dmdkit::Inputs inputs;
    std::optional<FloatView>* const views[] = {&inputs.text, &inputs.audio, &inputs.vision};
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (!tensors[i]) continue;
      const std::size_t each = tensors[i]->values.size() / count;
      *views[i] = FloatView(tensors[i]->values.data() + first * each, batch * each);
    }
    if (!sentences.empty()) inputs.words.emplace(sentences.data() + first, batch);
    if (!ids.empty()) inputs.token_ids.emplace(ids.data() + first, batch);
    inputs.batch = batch;
    return inputs;
  }
};

// The names an array may have: `name` itself only where no split was asked for.
std::vector<std::string> names_of(const std::string& split, const std::string& name) {
  return split.empty() ? std::vector<std::string>{name} : std::vector<std::string>{split + "/" + name, split + "_" + name};
}

bool any_of(const std::vector<std::string>& names, const std::function<bool(const std::string&)>& holds) {
  return std::any_of(names.begin(), names.end(), holds);
}

// A modality that is there in a form we do not read must not pass for an absent one. Words beside features are what a data set
// has; instead of features they are a mistake.
void refuse_left_out(const Tensors& all, const std::set<std::string>& left_out, const std::string& split,
                     const std::string& file) {
  const auto is_read = [&](const std::string& name) { return all.count(name) != 0; };
  const auto is_left_out = [&](const std::string& name) { return left_out.count(name) != 0; };
  const bool has_text = any_of(names_of(split, "text"), is_read);
  for (const auto& [array, words] :
       {std::pair{"text", false}, {"audio", false}, {"vision", false}, {"text_bert", true}, {"input_ids", true}}) {
    if ((words && has_text) || !any_of(names_of(split, array), is_left_out)) continue;
    throw dmdkit::Malformed(file, std::string("array '") + array +
                                      "' is not float32; dmdkit-run takes features of that type, and words or token ids from a "
                                      "file of their own: --words");
  }
}

Samples load_samples(const Arguments& arguments, const Runtime& runtime) {
  std::set<std::string> left_out;
  Tensors all = arguments.input.empty() ? golden_tensors(arguments.bundle) : read_tensors(arguments.input, &left_out);
  const std::string split = arguments.input.empty() ? "input" : arguments.split;
  Samples samples;
  if (!arguments.words.empty()) {
    samples.words = dmdkit::read_words(arguments.words);
    samples.sentences = samples.words.sentence_views();
    samples.ids = samples.words.id_views();
    samples.count = samples.words.size();
    if (samples.count == 0) throw dmdkit::Malformed(arguments.words, "holds no sentence");
  } else {
    refuse_left_out(all, left_out, split, arguments.input);
  }
  for (std::size_t i = arguments.words.empty() ? 0 : 1; i < dmdkit::kModalities; ++i) {
    const dmdkit::InputInfo& info = runtime.inputs()[i];
    for (const std::string& name : names_of(split, info.name)) {
      const auto found = all.find(name);
      if (found == all.end()) continue;
      samples.tensors[i] = std::move(found->second);
      break;
    }
    if (!samples.tensors[i]) continue;  // absent: the runtime says whether that may be
    const Tensor& tensor = *samples.tensors[i];
    if (tensor.shape.size() != 3 || tensor.shape[1] != info.steps || tensor.shape[2] != info.features) {
      throw dmdkit::Malformed(arguments.input, "input '" + info.name + "': expected (samples, " + std::to_string(info.steps) +
                                                   ", " + std::to_string(info.features) + ")");
    }
    if (tensor.shape[0] == 0) throw dmdkit::Malformed(arguments.input, "input '" + info.name + "' holds no samples");
    if (samples.count != 0 && samples.count != tensor.shape[0]) {
      throw dmdkit::Malformed(arguments.input, "inputs disagree on the number of samples: " + info.name + " has " +
                                                   std::to_string(tensor.shape[0]) + ", before it are " +
                                                   std::to_string(samples.count));
    }
    samples.count = tensor.shape[0];
  }
  if (samples.count == 0) throw dmdkit::Malformed(arguments.input, "no arrays text, audio, vision; see --split");
  return samples;
}

void append(Tensors& answers, const char* name, FloatView values, std::vector<std::size_t> sizes, std::size_t batch) {
  if (values.empty()) return;
  Tensor& tensor = answers[name];
  if (tensor.shape.empty()) {
    tensor.shape = {0};
    tensor.shape.insert(tensor.shape.end(), sizes.begin(), sizes.end());
  }
  tensor.shape[0] += batch;
  tensor.values.insert(tensor.values.end(), values.begin(), values.end());
}

// A refusal counts samples from the start of its batch, whoever reads it from that of the file.
dmdkit::Status of_batch(const dmdkit::Status& status, std::size_t first, std::size_t batch) {
  return {status.code(),
          "samples " + std::to_string(first) + " to " + std::to_string(first + batch - 1) + ": " + status.message()};
}

dmdkit::Status answer_all(Runtime& runtime, const Samples& samples, const Arguments& arguments, Tensors& answers) {
  for (std::size_t first = 0; first < samples.count; first += arguments.batch) {
    const std::size_t batch = std::min(arguments.batch, samples.count - first);
    const auto prediction = runtime.predict(samples.at(first, batch));
    if (!prediction) return of_batch(prediction.status(), first, batch);
    append(answers, "score", prediction->score, {prediction->outputs}, batch);
    if (!arguments.explain) continue;
    const auto why = runtime.explain(samples.at(first, batch));
    if (!why) return of_batch(why.status(), first, batch);
    append(answers, "explain_score", why->score, {why->outputs}, batch);
    append(answers, "logit_homo", why->logit_homo, {dmdkit::kModalities, why->outputs}, batch);
    append(answers, "logit_hetero", why->logit_hetero, {dmdkit::kModalities, why->outputs}, batch);
    append(answers, "edges_homo", why->edges_homo, {dmdkit::kEdges}, batch);
    append(answers, "edges_hetero", why->edges_hetero, {dmdkit::kEdges}, batch);
  }
  return {};
}

// Whole or absent: a full disk must not leave half a file under the name asked for. Renaming onto a device or a pipe would put a
// file in its place, so those are no names to write to.
bool write_file(const std::string& path, const std::vector<unsigned char>& bytes) {
  struct stat there {};
  if (::stat(path.c_str(), &there) == 0 && !S_ISREG(there.st_mode)) return false;
  // A name of its own, made anew: whoever has a file of the same beginning keeps it.
  std::string temporary = path + ".XXXXXX";
  const int descriptor = ::mkstemp(temporary.data());
  if (descriptor < 0) return false;
  const mode_t mask = ::umask(0);
  ::umask(mask);
  std::FILE* file = ::fchmod(descriptor, 0666 & ~mask) == 0 ? ::fdopen(descriptor, "wb") : nullptr;
  if (file == nullptr) {
    ::close(descriptor);
    std::remove(temporary.c_str());
    return false;
  }
  bool good = std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
  good = std::fclose(file) == 0 && good;
  if (good) good = std::rename(temporary.c_str(), path.c_str()) == 0;
  if (!good) std::remove(temporary.c_str());
  return good;
}

// Prints and reports whether standard output took it all.
int print(const Json& value) {
  std::printf("%s\n", value.dump().c_str());
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return 0;
  return complain(std::string(dmdkit::status_code_name(dmdkit::StatusCode::kFileUnwritable)) + ": standard output");
}

int run_self_check(Runtime& runtime, bool every_graph) {
  const auto check = runtime.self_check(every_graph);
  if (!check) return complain(check.status().message());
  Json graphs = Json::array();
  for (const dmdkit::GraphCheck& graph : check->graphs) {
    graphs.push_back({{"graph", graph.graph},
                      {"max_error", graph.max_error},
                      {"tolerance", graph.tolerance},
                      {"correlation", graph.correlation ? Json(*graph.correlation) : Json()},
                      {"passed", graph.passed},
                      {"worst_output", graph.worst_output}});
  }
  const int printed = print(
      {{"passed", check->passed}, {"samples", check->samples}, {"graphs", std::move(graphs)}, {"backend", runtime.backend()}});
  return printed != 0 ? printed : check->passed ? 0 : kExitVerdict;
}

int run_bench(Runtime& runtime, const Samples& samples, std::size_t rounds) {
  for (std::size_t round = 0; round < rounds + 10; ++round) {
    if (round == 10) runtime.reset_stats();  // the first ten only warm up
    const auto prediction = runtime.predict(samples.at(round % samples.count, 1));
    if (!prediction) return complain(prediction.status().message());
  }
  const dmdkit::Stats stats = runtime.stats();
  return print({{"graph", runtime.graph()},
                {"backend", runtime.backend()},
                {"count", stats.count},
                {"p50_ms", stats.p50_ms},
                {"p90_ms", stats.p90_ms},
                {"p99_ms", stats.p99_ms},
                {"max_ms", stats.max_ms},
                {"deadline_misses", stats.deadline_misses},
                {"out_of_range", stats.out_of_range}});
}

// The first of a sample's own steps and the one behind the last, as in Python: those at either end that are zero in every
// modality are padding.
std::pair<std::size_t, std::size_t> own_steps(const Runtime& runtime, const Samples& samples, std::size_t sample,
                                              std::size_t steps) {
  const auto is_empty = [&](std::size_t step) {
    for (std::size_t i = 0; i < dmdkit::kModalities; ++i) {
      if (!samples.tensors[i]) continue;
      const std::size_t width = runtime.inputs()[i].features;
      const float* row = samples.tensors[i]->values.data() + (sample * steps + step) * width;
      if (!std::all_of(row, row + width, [](float value) { return value == 0.0F; })) return false;
    }
    return true;
  };
  std::size_t first = 0, end = steps;
  while (first < end && is_empty(first)) ++first;
  while (end > first && is_empty(end - 1)) --end;
  return {first, end};
}

// Prints a line for every step of every sample that has an answer, as the steps come.
int run_stream(Runtime& runtime, const Samples& samples, const Arguments& arguments) {
  auto stream = runtime.stream();
  if (!stream) return complain(stream.status().message());
  if (!stream->note().empty()) std::fprintf(stderr, "dmdkit-run: note: %s\n", stream->note().c_str());
  for (std::size_t sample = 0; sample < samples.count; ++sample) {
    const dmdkit::Status status = stream->reset();
    if (!status.ok()) return complain(status.message());
    const auto [first, end] = own_steps(runtime, samples, sample, stream->limit());
    if (end - first < stream->unanswered() + 1) {
      return complain(arguments.input + ": sample " + std::to_string(sample) + " has " + std::to_string(end - first) +
                      " steps, fewer than the kernel of " + std::to_string(stream->unanswered() + 1) +
                      ": no step of it has an answer; leave it out");
    }
    for (std::size_t step = first; step < end; ++step) {
      dmdkit::Steps steps;
      std::optional<FloatView>* const views[] = {&steps.text, &steps.audio, &steps.vision};
      for (std::size_t i = 0; i < dmdkit::kModalities; ++i) {
        if (!samples.tensors[i]) continue;
        const std::size_t width = runtime.inputs()[i].features;
        *views[i] = FloatView(samples.tensors[i]->values.data() + (sample * stream->limit() + step) * width, width);
      }
      const auto answer = stream->push(steps);
      if (!answer) return complain(of_batch(answer.status(), sample, 1).message());
      if (answer->count == 0) continue;
      const std::vector<float> score(answer->score.begin(), answer->score.end());
      const int printed =
          print({{"sample", sample}, {"steps", answer->steps}, {"score", score}, {"latency_ms", answer->latency_ms}});
      if (printed != 0) return printed;
    }
  }
  return 0;
}

int run(const Arguments& arguments) {
  refuse_other_formats(arguments.input);
  auto runtime = Runtime::open(arguments.bundle, arguments.options);
  if (!runtime) {
    refuse_other_formats(arguments.bundle);
    return complain(runtime.status().message());
  }
  for (const std::string& note : runtime->notes()) std::fprintf(stderr, "dmdkit-run: note: %s\n", note.c_str());
  if (arguments.self_check) return run_self_check(*runtime, arguments.every_graph);
  const Samples samples = load_samples(arguments, *runtime);
  if (arguments.stream) return run_stream(*runtime, samples, arguments);
  if (arguments.bench) return run_bench(*runtime, samples, arguments.rounds);
  Tensors answers;
  const dmdkit::Status status = answer_all(*runtime, samples, arguments, answers);
  if (!status.ok()) return complain(status.message());
  Json values = {{"graph", runtime->graph()}, {"backend", runtime->backend()}, {"samples", samples.count}};
  if (!arguments.words.empty()) {
    values["text_graph"] = runtime->text_graph();
    values["text_backend"] = runtime->text_backend();
    values["truncated"] = runtime->stats().truncated;
  }
  if (!arguments.output.empty()) {
    if (write_file(arguments.output, dmdkit::safetensors_bytes(answers))) return print(values);
    return complain(arguments.output + ": cannot be written; choose a file in a writable place with free space");
  }
  for (const auto& [name, tensor] : answers) values[name] = {{"shape", tensor.shape}, {"values", tensor.values}};
  return print(values);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  std::string problem;
  if (!dmdkit::parse_arguments(argc, argv, arguments, problem)) return complain(problem + "; see dmdkit-run --help");
  if (arguments.help) {
    std::fputs(dmdkit::kUsage, stdout);
    return 0;
  }
  try {
    return run(arguments);
  } catch (const std::exception& cause) {
    return complain(cause.what());
  }
}
