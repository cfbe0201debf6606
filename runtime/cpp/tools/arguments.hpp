// The command line of dmdkit-run.
#ifndef DMDKIT_TOOLS_ARGUMENTS_HPP_
#define DMDKIT_TOOLS_ARGUMENTS_HPP_

#include <cstddef>
#include <string>

#include "dmdkit/types.hpp"

namespace dmdkit {

struct Arguments {
  std::string bundle;
  std::string input;   // safetensors; empty: the bundle's golden inputs
  std::string words;   // sentences in place of text features: a line each, or a JSON list of strings or of lists of token ids
  std::string split;   // prefix of the arrays' names in the input, "test" for test/text
  std::string output;  // safetensors; empty: JSON on standard output
  std::size_t batch = 1;
  std::size_t rounds = 1000;
  bool explain = false;
  bool self_check = false;
  bool every_graph = false;
  bool bench = false;
  bool stream = false;
  bool help = false;
  Options options;
};

extern const char kUsage[];

// False, with the reason in `problem`, for a command line that cannot be.
bool parse_arguments(int argc, char** argv, Arguments& arguments, std::string& problem);

}  // namespace dmdkit

#endif  // DMDKIT_TOOLS_ARGUMENTS_HPP_
