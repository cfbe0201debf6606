"""C++ messages of the shape that rosidl generates, from .msg files: generate_messages.py OUT PACKAGE FILE [FILE ...].

Without serialisation: what the stand-ins pass around stays in the process.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PLAIN = {
    "bool": "bool",
    "byte": "unsigned char",
    "float32": "float",
    "float64": "double",
    "int32": "int32_t",
    "int64": "int64_t",
    "string": "std::string",
    "uint8": "uint8_t",
    "uint32": "uint32_t",
    "uint64": "uint64_t",
}
FIELD = re.compile(r"(?P<type>[\w/]+)(?P<array>\[(?P<bound><=)?(?P<size>\d*)\])?\s+(?P<name>\w+)(?:=(?P<value>\S+))?")


def snake(name: str) -> str:
    """The name of a message as its header has it: KeyValue, key_value."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def header(package: str, path: Path) -> str:
    """The header of one message."""
    name, includes, members = path.stem, [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = FIELD.fullmatch(text)
        if found is None:
            raise SystemExit(f"{path}: not a field or a constant: {line!r}")
        kind = PLAIN.get(found["type"])
        if kind is None:
            owner, _, base = found["type"].rpartition("/")
            owner = owner or package
            includes.append(f"#include <{owner}/msg/{snake(base)}.hpp>")
            kind = f"{owner}::msg::{base}"
        if found["value"] is not None:
            members.append(f"  static constexpr {kind} {found['name']} = {found['value']};")
        elif found["bound"]:
            members.append(f"  rosidl_runtime_cpp::BoundedVector<{kind}, {found['size']}> {found['name']};")
        elif found["size"]:
            members.append(f"  std::array<{kind}, {found['size']}> {found['name']}{{}};")
        else:
            members.append(f"  std::vector<{kind}> {found['name']};" if found["array"] else f"  {kind} {found['name']}{{}};")
    guard = f"{package}__MSG__{snake(name)}_HPP_".upper()
    lines = [
        f"#ifndef {guard}",
        f"#define {guard}",
        "#include <array>",
        "#include <cstdint>",
        "#include <memory>",
        "#include <rosidl_runtime_cpp/bounded_vector.hpp>",
        "#include <string>",
        "#include <vector>",
        *includes,
        f"namespace {package}::msg {{",
        "template <class ContainerAllocator>",
        f"struct {name}_ {{",
        f"  using SharedPtr = std::shared_ptr<{name}_>;",
        f"  using ConstSharedPtr = std::shared_ptr<const {name}_>;",
        *members,
        "};",
        f"using {name} = {name}_<std::allocator<void>>;",
        f"}}  // namespace {package}::msg",
        f"#endif  // {guard}",
    ]
    return "\n".join(lines) + "\n"


def main(out: Path, package: str, *files: str) -> None:
    """Headers of the messages in `files`, written to out/package/msg."""
    folder = out / package / "msg"
    folder.mkdir(parents=True, exist_ok=True)
    for file in map(Path, files):
        target, text = folder / f"{snake(file.stem)}.hpp", header(package, file)
        if not target.exists() or target.read_text(encoding="utf-8") != text:  # an untouched file is not compiled again
            target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
