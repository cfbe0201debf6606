// The object an application holds: opens a bundle, predicts, explains and checks itself.
//
//   auto rt = dmdkit::Runtime::open("face.dmd");
//   if (!rt) return report(rt.status().message());
//   auto out = rt->predict({text, audio, vision});   // no allocation of dmdkit's after the first call with a batch size
//   if (out) use(out->score[0]);
//
// Threads. Runtimes are independent: one per thread needs no care. One Runtime may be shared: calls are serialised by a lock
// inside it, so every method may be called from any thread, but the views that predict and explain return are valid only until
// the next call on that Runtime. Sharing threads therefore use predict_into and explain_into, which copy under the lock. Moving
// or destroying a Runtime is not a call: no other thread may use it then. One that was moved from describes nothing (no inputs,
// empty names) and answers every call with kInvalidInput.
#ifndef DMDKIT_RUNTIME_HPP_
#define DMDKIT_RUNTIME_HPP_

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "dmdkit/result.hpp"
#include "dmdkit/stream.hpp"
#include "dmdkit/types.hpp"
#include "dmdkit/version.h"

namespace dmdkit {

class DMDKIT_API Runtime {
 public:
  // Opens the bundle in directory `path`: checks its manifest, sizes and hashes, and loads the predicting graph. The directory
  // must stay where it is, as explain and self_check read from it; the process may change its own.
  static Result<Runtime> open(const std::string& path, const Options& options = {}) noexcept;

  Runtime(Runtime&&) noexcept;
  Runtime& operator=(Runtime&&) noexcept;
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;
  ~Runtime();

  // What each modality must look like, in the order of kModalityNames.
  const std::array<InputInfo, kModalities>& inputs() const noexcept;

  // C: 1 for regression, otherwise the number of classes.
  std::size_t outputs() const noexcept;

  const TaskInfo& task() const noexcept;

  // Whether explain gives edges.
  bool has_edges() const noexcept;

  // The graph that predicts (fusion.int8-cpu), what runs it ("onnxruntime 1.31.1"), and the bundle's name.
  const std::string& graph() const noexcept;
  const std::string& backend() const noexcept;
  const std::string& name() const noexcept;

  // Whether the bundle reads words and token ids; what reads them, and what runs that, once some came (empty before).
  bool has_text_encoder() const noexcept;
  const std::string& text_graph() const noexcept;
  const std::string& text_backend() const noexcept;

  // What was not as expected when the bundle was opened, in sentences; said here and nowhere else.
  const std::vector<std::string>& notes() const noexcept;

  // Order of the modality axis of explain's logits, and "student<-teacher" per edge.
  const std::array<std::string, kModalities>& modality_order() const noexcept;
  const std::array<std::string, kEdges>& edge_order() const noexcept;

  // Scores raw features, or words or token ids in place of text. Fails with kInvalidInput for a wrong size, a NaN or infinity,
  // a modality that may not be absent, a sentence that is not UTF-8 or an id outside the vocabulary. Features need no memory
  // after the first call with a batch size; words do.
  Result<Prediction> predict(const Inputs& inputs) noexcept;

  // The same, copied into `score` (batch * outputs() values), for a Runtime that threads share; the returned view shows
  // `score`.
  Result<Prediction> predict_into(const Inputs& inputs, MutableFloatView score) noexcept;

  // Says what each modality says alone and which teaches which. The first call opens the explain graph, of the same precision
  // as the predicting one where there is one.
  Result<Explanation> explain(const Inputs& inputs) noexcept;
  Result<Explanation> explain_into(const Inputs& inputs, const ExplanationBuffers& buffers) noexcept;

  // A new stream over this bundle's step graph, which the first one opens and all share: of the predicting graph's precision
  // where there is one, otherwise fp32, and unless a graph was asked for by name only one that passed parity.
  Result<Stream> stream(const StreamOptions& options = {}) noexcept;

  // Replays the golden samples through the predicting and the explaining graph (or all graphs of the bundle) and compares with
  // what each gave when it was exported. The Result is a failure only if that cannot be done; look at SelfCheck::passed.
  Result<SelfCheck> self_check(bool every_graph = false) noexcept;

  Stats stats() const noexcept;
  void reset_stats() noexcept;

 private:
  class Impl;
  explicit Runtime(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmdkit

#endif  // DMDKIT_RUNTIME_HPP_
