"""A home of its own for other processes, in which every look-up of a host and every written file is seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["QUIETING", "WAIT_S", "Watch", "compile_shim"]

# Answers every look-up with "unknown", so that nothing leaves this machine whatever a library tries.
SHIM = """
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int getaddrinfo(const char* node, const char* service, const struct addrinfo* hints, struct addrinfo** found) {
  char line[256] = "?";
  const char* path = getenv("LOOKUPS");
  int log = path != NULL ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
  (void)service, (void)hints, (void)found;
  if (node != NULL) strncpy(line, node, sizeof line - 2);
  if (log >= 0) {
    size_t size = strlen(line);
    line[size] = '\\n';
    if (write(log, line, size + 1) < 0) abort();
    close(log);
  }
  return EAI_NONAME;
}
"""
WAIT_S = 12
"""ONNX Runtime 1.31.1 looks its host up 8 s after the session was made; OpenVINO 2026.4 while it is imported."""

# Where these are set, the libraries keep still by themselves, which would prove nothing of ours.
QUIETING = {"CI", "TF_BUILD", "GITHUB_ACTIONS", "JENKINS_URL", "ORT_RUNNING_UNIT_TESTS", "ORT_DISABLE_TELEMETRY"}


@dataclass(frozen=True)
class Watch:
    """A home of its own, and what was looked up from there."""

    folder: Path
    shim: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k not in QUIETING and not k.startswith("XDG_")}
        home = {"HOME": str(self.folder / "home"), "XDG_CACHE_HOME": str(self.folder / "home/cache")}
        return kept | home | {"LD_PRELOAD": str(self.shim), "LOOKUPS": str(self.folder / "lookups")}

    def start(self, *command: str | Path, **environment: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(
            [str(part) for part in command], env=self.environment | environment, text=True, cwd=self.folder, **pipes
        )

    def run(self, *commands: Sequence[str | Path], **environment: str) -> None:
        """Runs the commands side by side and waits for all."""
        with ExitStack() as stack:
            started = [stack.enter_context(self.start(*command, **environment)) for command in commands]
            for process in started:
                said, _ = process.communicate(timeout=240)
                assert process.returncode == 0, said

    @property
    def lookups(self) -> set[str]:
        log = self.folder / "lookups"
        return set(log.read_text().split()) if log.exists() else set()

    @property
    def written(self) -> set[str]:
        """Files in the home, except those in dmdkit's own cache."""
        home = self.folder / "home"
        files = {str(path.relative_to(home)) for path in home.rglob("*") if not path.is_dir()}
        return {name for name in files if not name.startswith("cache/dmdkit/")}


def compile_shim(folder: Path) -> Path:
    """The library to preload; skips where it cannot be made."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("watching look-ups takes Linux and a C compiler")
    (folder / "shim.c").write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "shim.so", folder / "shim.c"], check=True)
    return folder / "shim.so"
