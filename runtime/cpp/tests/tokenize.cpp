// Reads sentences from standard input, each after its length in bytes and a newline, and writes their token ids, a line each:
//   dmdkit_tokenize TOKENIZER.JSON VOCABULARY_SIZE MAX_TOKENS
// A cut sentence's line starts with "+", one that is refused is "!" and the reason.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "failure.hpp"
#include "text/tokenizer.hpp"

int main(int argc, char** argv) {
  if (argc != 4) return 1;
  std::ifstream file(argv[1], std::ios::binary);
  const std::vector<char> data{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  try {
    const dmdkit::text::Tokenizer tokenizer(reinterpret_cast<const unsigned char*>(data.data()), data.size(), argv[1],
                                            std::strtoull(argv[2], nullptr, 10), std::strtoull(argv[3], nullptr, 10));
    std::ios::sync_with_stdio(false);
    std::string line;
    std::string sentence;
    for (std::size_t index = 0; std::getline(std::cin, line); ++index) {
      sentence.resize(std::strtoull(line.c_str(), nullptr, 10));
      if (!std::cin.read(sentence.data(), static_cast<std::streamsize>(sentence.size()))) return 1;
      line.clear();
      try {
        const dmdkit::text::Tokens tokens = tokenizer(sentence, index);
        if (tokens.truncated) line = "+";
        for (const std::int64_t id : tokens.ids) line += std::to_string(id) + " ";
      } catch (const dmdkit::Failure& failure) {
        line = std::string("!") + failure.what();
      }
      std::cout << line << '\n';
    }
  } catch (const dmdkit::Failure& failure) {
    std::cerr << static_cast<int>(failure.status().code()) << ' ' << failure.what() << '\n';
    return 2;
  }
  return 0;
}
