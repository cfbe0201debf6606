// A backend for tests: no inference library, no threads, no allocation after bind. The "model" is a line of text:
//
//   fake score=1 logit_homo=3x1 ... | text=20x32 audio=20x12 ... [fail_run] [fail_bind] [no_device] [throttle_us=N]
//   [fixed_batch] [nan]
//
// A text graph is "fake text=nx4 | input_ids=n attention_mask=n", where n is any length: every feature of a token is its id
// times 0.01 where the mask is 1, else 0.
//
// Every output value is the mean of all input values of its sample plus its index, so that tests know what to expect.
//
// A size `m` stands for the batch where that is not the first axis, and `:=` for a tensor without one. A graph with an input
// `steps` is a step graph: the new columns of a state tensor hold the sum of the input steps under the kernel, and the score of
// a step is the sum of all columns up to it in the first state tensor, plus its index. So a score says which steps a state
// holds.
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../plugin.hpp"

using dmdkit_plugin::Problem;

struct dmdkit_backend_session {
 public:
  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;
    std::size_t values = 1;  // without the batch
    float* buffer = nullptr;
  };

  static std::unique_ptr<dmdkit_backend_session> open(const dmdkit_backend_open_args& args) {
    auto session = std::make_unique<dmdkit_backend_session>();
    session->model_ = std::string(static_cast<const char*>(args.model), args.model_bytes);
    std::istringstream model(session->model_);
    std::string word;
    if (!(model >> word) || word != "fake") throw Problem(DMDKIT_BACKEND_FAILED, "fake cannot load the graph");
    bool inputs = false;
    while (model >> word) {
      const std::size_t equals = word.find('=');
      if (word == "|") {
        inputs = true;
      } else if (word == "no_device") {
        throw Problem(DMDKIT_BACKEND_NO_DEVICE, "fake has no such device");
      } else if (word == "fixed_batch") {
        for (Tensor& tensor : session->inputs_) tensor.shape[0] = 1;
      } else if (word == "fail_run") {
        session->fail_run_ = true;
      } else if (word == "nan") {
        session->nan_ = true;
      } else if (word == "fail_bind") {
        session->fail_bind_ = true;
      } else if (word.rfind("throttle_us=", 0) == 0) {
        session->throttle_us_ = std::stol(word.substr(equals + 1));
      } else if (equals != std::string::npos) {
        (inputs ? session->inputs_ : session->outputs_).push_back(parse_tensor(word, equals));
      }
    }
    for (const Tensor& tensor : session->inputs_) session->streams_ |= tensor.name == "steps" && tensor.shape[0] != -1;
    return session;
  }

  std::unique_ptr<dmdkit_backend_session> share() const {
    dmdkit_backend_open_args args{};
    args.model = model_.data();
    args.model_bytes = model_.size();
    return open(args);
  }

  const std::vector<Tensor>& inputs() const noexcept { return inputs_; }
  const std::vector<Tensor>& outputs() const noexcept { return outputs_; }
  const char* note() const noexcept { return nullptr; }

  void bind(std::size_t batch, float* const* inputs, float* const* outputs) {
    if (fail_bind_) throw Problem(DMDKIT_BACKEND_NO_MEMORY, "fake has no memory");
    for (std::size_t i = 0; i < inputs_.size(); ++i) inputs_[i].buffer = inputs[i];
    for (std::size_t i = 0; i < outputs_.size(); ++i) outputs_[i].buffer = outputs[i];
    batch_ = batch;
  }

  void run() {
    if (fail_run_) throw Problem(DMDKIT_BACKEND_FAILED, "fake failed to run");
    if (throttle_us_ > 0) std::this_thread::sleep_for(std::chrono::microseconds(throttle_us_));
    if (streams_) return run_steps();
    for (std::size_t sample = 0; sample < batch_; ++sample) {
      double sum = 0.0;
      std::size_t count = 0;
      for (const Tensor& tensor : inputs_) {
        for (std::size_t i = 0; i < tensor.values; ++i) sum += tensor.buffer[sample * tensor.values + i];
        count += tensor.values;
      }
      for (const Tensor& tensor : outputs_) {
        for (std::size_t i = 0; i < tensor.values; ++i) {
          tensor.buffer[sample * tensor.values + i] =
              nan_ ? std::nanf("") : static_cast<float>(sum / static_cast<double>(count) + static_cast<double>(i));
        }
      }
    }
  }

  void run_tokens(std::size_t batch, std::size_t length, const std::int64_t* const* inputs, float* output) {
    if (fail_run_) throw Problem(DMDKIT_BACKEND_FAILED, "fake failed to run");
    const auto width = static_cast<std::size_t>(outputs_.front().shape.back());
    for (std::size_t i = 0; i < batch * length * width; ++i) {
      output[i] = inputs[1][i / width] != 0 ? 0.01F * static_cast<float>(inputs[0][i / width]) : 0.0F;
    }
  }

 private:
  const Tensor* find(const std::string& name) const noexcept {
    for (const Tensor& tensor : inputs_) {
      if (tensor.name == name) return &tensor;
    }
    return nullptr;
  }

  // The sum of the input steps under the kernel of new step `step`, from the recent ones and the new.
  double window_sum(std::size_t step) const noexcept {
    double sum = 0.0;
    for (const auto& [name, recent] :
         {std::pair{"text", "recent_text"}, {"audio", "recent_audio"}, {"vision", "recent_vision"}}) {
      const Tensor* fresh = find(name);
      const Tensor* kept = find(recent);
      const std::size_t width = fresh->values;
      const std::size_t before = kept != nullptr ? kept->values / width : 0;
      for (std::size_t at = step; at <= step + before; ++at) {
        const float* row = at < before ? kept->buffer + at * width : fresh->buffer + (at - before) * width;
        for (std::size_t i = 0; i < width; ++i) sum += row[i];
      }
    }
    return sum;
  }

  void run_steps() {
    const Tensor* place = find("steps");
    const Tensor* state = place + 1;  // the first one, which follows
    const auto held = static_cast<std::size_t>(place->buffer[0]);
    double sum = 0.0;
    for (std::size_t column = 0; column < held; ++column) sum += state->buffer[column];
    for (std::size_t step = 0; step < batch_; ++step) {
      const double fresh = window_sum(step);
      sum += fresh;
      for (const Tensor& tensor : outputs_) {
        const bool columns = tensor.name.rfind("new_", 0) == 0;
        for (std::size_t i = 0; i < tensor.values; ++i) {
          const std::size_t at = columns ? i * batch_ + step : step * tensor.values + i;
          tensor.buffer[at] = nan_ ? std::nanf("") : static_cast<float>(columns ? fresh : sum + static_cast<double>(i));
        }
      }
    }
  }

  static Tensor parse_tensor(const std::string& word, std::size_t equals) {
    Tensor tensor;
    const bool fixed = word[equals - 1] == ':';
    tensor.name = word.substr(0, fixed ? equals - 1 : equals);
    const std::string written = word.substr(equals + 1);
    if (!fixed && written.find('m') == std::string::npos) tensor.shape.push_back(-1);
    std::istringstream sizes(written);
    std::string size;
    while (std::getline(sizes, size, 'x')) {
      const bool counts = size == "m" || size == "n";
      tensor.shape.push_back(counts ? -1 : std::stoll(size));
      if (counts) continue;
      tensor.values *= static_cast<std::size_t>(tensor.shape.back());
    }
    return tensor;
  }

  std::vector<Tensor> inputs_;
  std::vector<Tensor> outputs_;
  std::size_t batch_ = 0;
  bool fail_run_ = false;
  bool fail_bind_ = false;
  bool nan_ = false;
  bool streams_ = false;
  std::string model_;
  long throttle_us_ = 0;
};

namespace {

constexpr dmdkit_backend_vtable kTable =
    dmdkit_plugin::table_of<dmdkit_backend_session>([] { return "fake 1"; }, /*takes_engines=*/false);

}  // namespace

DMDKIT_BACKEND_DEFINE_ENTRY(kTable);
