// An opened bundle: its manifest, and files that are used only after their hash was checked.
#ifndef DMDKIT_SRC_BUNDLE_HPP_
#define DMDKIT_SRC_BUNDLE_HPP_

#include <map>
#include <string>
#include <utility>

#include "files.hpp"
#include "manifest.hpp"
#include "safetensors.hpp"

namespace dmdkit {

// Golden samples and what each graph gave on them at export.
struct Golden {
  std::map<std::string, Tensor> inputs;                              // modality -> (N, T, D)
  std::map<std::string, std::map<std::string, Tensor>> unit_inputs;  // gd_homo, gd_hetero -> input name -> tensor
  std::map<std::string, IntegerTensor> tokens;                       // input_ids, attention_mask: what text graphs are fed
  std::map<std::string, std::map<std::string, Tensor>> recorded;     // graph -> output name -> tensor

  // What a graph of this kind is fed.
  const std::map<std::string, Tensor>& inputs_of(const std::string& kind) const;
};

class Bundle {
 public:
  // Reads the manifest and checks that every listed file is there with its size. Throws Failure.
  static Bundle open(const std::string& path);

  // As it was given, for messages.
  const std::string& path() const noexcept { return path_; }
  // Where a file of the bundle lies, from the root.
  std::string file(const std::string& name) const { return root_ + "/" + name; }
  const Manifest& manifest() const noexcept { return manifest_; }

  // The content of a listed file after its hash was checked. Throws Failure.
  Bytes read(const std::string& name) const;

  // The golden samples, as large and as complete as the manifest says. Throws Failure.
  Golden golden() const;

 private:
  Bundle(std::string path, Manifest manifest)
      : path_(std::move(path)), root_(absolute_path(path_)), manifest_(std::move(manifest)) {}

  std::string path_;
  std::string root_;
  Manifest manifest_;
};

// The graph to open for `kind` (fusion, explain): the one asked for by full name or precision, or with an empty `wanted` the
// preferred one that passed parity, `prefer`, a precision, before the others. Throws Failure.
const std::string& choose_graph(const Manifest& manifest, const std::string& kind, const std::string& wanted,
                                const std::string& prefer = "");

// The explain graph that goes with graph `predicting`: of the same precision where possible, because an explanation of another
// model misleads. Who asked for a graph by name answers for its verdict; otherwise only one that passed parity explains. Throws
// Failure where there is none.
const std::string& explain_graph(const Manifest& manifest, const std::string& predicting, bool asked_for);
bool has_explain_graph(const Manifest& manifest, const std::string& predicting, bool asked_for);

}  // namespace dmdkit

#endif  // DMDKIT_SRC_BUNDLE_HPP_
