#!/usr/bin/env python3
"""Makes `.venv` in the checkout with Detectron2 0.6 and everything axial_d2 needs (`make env`).

Runs on the standard library of any Python from 3.6 on, because it may be started by a Python
that is too old for axial_d2 and has to find a better one. Settings come from the environment:

    PYTHON   interpreter to build the environment from (default: looks for 3.10 to 3.12)
    PIP_*    pip's own settings; the packages come from whatever index pip is configured with

Run again, it does nothing if nothing changed, and completes what an interrupted run left.
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

from find_python import (
    SetupError,
    default_candidates,
    find_python,
    is_supported,
    probe,
    version_text,
)

PEAK_GIB = 8.0  # 5.2 remain, the rest is what pip downloads

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
SCRIPTS = [os.path.join(ROOT, "tools", name) for name in ("setup_env.py", "find_python.py")]
STAMP = os.path.join(VENV, "setup.json")  # written last: the set-up is complete
LOG = os.path.join(VENV, "setup.log")
SCRATCH = os.path.join(VENV, "setup.tmp")
REQUIREMENTS = {
    name: os.path.join(ROOT, "requirements", name + ".txt")
    for name in ("build", "runtime", "dev", "detectron2")
}

VERIFY = """
import warnings
warnings.simplefilter("ignore")
import axial_d2
import cv2, detectron2, numpy, panopticapi.utils, torch, torchvision
import detectron2.engine, detectron2.evaluation, detectron2.projects.panoptic_deeplab
gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none seen, the CPU is used"
print(f"Detectron2 {detectron2.__version__}, PyTorch {torch.__version__}, torchvision "
      f"{torchvision.__version__}, NumPy {numpy.__version__}, OpenCV {cv2.__version__}")
print(f"GPU: {gpu}")
from axial_d2.ops import cpp_library
print(f"CPU kernels: {cpp_library.obstacle() or 'built'}")
"""

# What pip says, what it means, what to do. The first match counts.
PIP_FAILURES = (
    (
        r"No space left on device|Errno 28\b|Disk quota exceeded|Errno 122\b",
        "the disk (or your quota) is full",
        "free some space, or clone to a larger disk; `pip cache purge` empties pip's cache",
    ),
    (
        r"connection broken by|Failed to establish a new connection|Name or service not known"
        r"|Temporary failure in name resolution|Network is unreachable|Connection refused"
        r"|Connection reset|[Tt]imed out|ProxyError|CERTIFICATE_VERIFY_FAILED|SSLError"
        r"|HTTP error [45]|[45]\d\d (Client|Server) Error",
        "the package index that pip is configured with does not answer",
        "check the network, HTTPS_PROXY and `pip config list`",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        "the index offers another file than the one whose checksum requirements/ states",
        "do not use that file; `pip config list` shows which index it came from",
    ),
    (
        r"No matching distribution found|Could not find a version|ResolutionImpossible",
        "the package index has no such package for this Python and processor",
        "see the lines above for its name; `pip config list` shows which index is asked",
    ),
    (
        r"Permission denied|Errno 13\b|Read-only file system",
        "a file or folder may not be written",
        "make the checkout writable for you, and do not mix `sudo make` with `make`",
    ),
    (
        r"MemoryError|Cannot allocate memory|^Killed$",
        "the machine ran out of memory",
        "close other programs; the set-up needs about 2 GB",
    ),
)


def main() -> int:
    signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        with one_at_a_time():
            python, version = choose_python()
            key = stamp_key(version)
            if python is None and read_stamp().get("key") == key:
                print(f"environment: .venv is up to date (Python {version})", flush=True)
            else:
                Installation(python, version).run(key)
    except SetupError as error:
        print(f"\nmake env: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmake env: interrupted; run it again to go on from here", file=sys.stderr)
        return 130
    return 0


# ---- What is there already


def choose_python() -> tuple:
    """Decides between the environment that is there and a new one.

    Returns:
        ``(python, version)``: the interpreter to make a new environment from, or None to keep
        the present one; and its version, such as "3.11.7".
    """
    wanted = os.environ.get("PYTHON", "").strip()
    present = probe(VENV_PYTHON)
    keep = (
        present is not None
        and is_supported(present)
        and read_stamp().get("root", ROOT) == ROOT  # the scripts in .venv/bin name their folder
    )
    if keep and not wanted:
        return None, version_text(present)
    found = find_python([wanted] if wanted else default_candidates())
    if keep and found["version"][:2] == present["version"][:2]:
        return None, version_text(present)
    return found["executable"], version_text(found)


def stamp_key(version: str) -> str:
    """Digest of everything that the environment is made from."""
    digest = hashlib.sha256(f"{ROOT}\n{version}\n".encode())
    kernels = glob.glob(os.path.join(ROOT, "axial_d2", "csrc", "*.[ch]*"))
    sources = [
        *REQUIREMENTS.values(),
        os.path.join(ROOT, "setup.py"),
        os.path.join(ROOT, "axial_d2", "ops", "cpp_library.py"),
        *SCRIPTS,
        *sorted(kernels),
    ]
    for path in sources:
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def read_stamp() -> dict:
    """The stamp of a completed set-up, or an empty one."""
    try:
        with open(STAMP) as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def check_disk_space() -> None:
    used = 0
    for folder, _, files in os.walk(VENV):
        for name in files:
            with contextlib.suppress(OSError):
                used += os.lstat(os.path.join(folder, name)).st_size
    needed = max(PEAK_GIB - used / 2.0**30, 0.5)
    folder = VENV if os.path.isdir(VENV) else ROOT
    free = shutil.disk_usage(folder).free / 2.0**30
    if free < needed:
        raise SetupError(
            f"{free:.1f} GiB are free in {folder}, the set-up needs {needed:.1f} (PyTorch with its "
            "CUDA libraries is large; about 5 remain in .venv).\n"
            "Free some space, or clone to a larger disk."
        )


def discard_half_installed() -> None:
    """Forgets packages whose installation was cut off, so that pip installs them again.

    pip writes the INSTALLER file of a package after all others; a package without it may lack
    files although pip counts it as installed.
    """
    site_packages = os.path.join(VENV, "lib", "python3.*", "site-packages")
    for metadata in glob.glob(os.path.join(site_packages, "*.dist-info")):
        if not os.path.exists(os.path.join(metadata, "INSTALLER")):
            shutil.rmtree(metadata)
    for leftover in glob.glob(os.path.join(site_packages, "~*")):  # of a removal cut off
        shutil.rmtree(leftover, ignore_errors=True)


# ---- Installing


class Installation:
    """One run of the set-up: numbered steps, each with the time since the start.

    Args:
        python: interpreter to make a new environment from; None completes the present one.
        version: its version, for the user to read.
    """

    STEPS = 6

    def __init__(self, python: str, version: str):
        self.python = python
        self.version = version
        self.start = time.time()
        self.step = 0

    def run(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.remove(STAMP)
        check_disk_space()
        self.make_venv()
        discard_half_installed()
        shutil.rmtree(SCRATCH, ignore_errors=True)
        os.makedirs(os.path.join(SCRATCH, "bin"))
        open(LOG, "w").close()
        try:
            self.install()
        finally:
            shutil.rmtree(SCRATCH, ignore_errors=True)
        with open(STAMP + ".new", "w") as file:
            json.dump({"key": key, "root": ROOT}, file)
        os.replace(STAMP + ".new", STAMP)
        print(f"environment: .venv is ready after {self.elapsed()}", flush=True)

    def make_venv(self) -> None:
        if self.python is None:
            self.say(f"virtual environment: completing .venv (Python {self.version})")
        else:
            is_venv = os.path.exists(os.path.join(VENV, "pyvenv.cfg"))
            if os.path.isdir(VENV) and os.listdir(VENV) and not is_venv:
                raise SetupError(f"{VENV} is there but is no virtual environment; move it away.")
            self.say(f"virtual environment: Python {self.version} from {self.python}")
            self.check(*quiet_call([self.python, "-m", "venv", "--clear", VENV]))
        if quiet_call([VENV_PYTHON, "-m", "pip", "--version"])[0] != 0:
            self.check(*quiet_call([VENV_PYTHON, "-m", "ensurepip", "--upgrade"]))

    def install(self) -> None:
        self.say("build tools (setuptools, wheel)")
        self.pip("-r", REQUIREMENTS["build"])
        self.say("PyTorch and other libraries: 2.8 GB to download, 5 GB on disk, a few minutes")
        self.pip("-r", REQUIREMENTS["runtime"], "-r", REQUIREMENTS["dev"])
        self.say("Detectron2 0.6")
        self.install_detectron2()
        self.say("axial_d2 (editable), with its C++ kernels where there is a compiler")
        self.pip("--no-deps", "-e", ROOT)
        self.say("check that everything imports")
        output = self.call([VENV_PYTHON, "-I", "-c", VERIFY])
        print("".join(f"      {line}\n" for line in output.splitlines()[-3:]), end="")

    def install_detectron2(self) -> None:
        """Builds the source distribution with compilers that do nothing: it has no C++ sources."""
        bin_folder = os.path.join(SCRATCH, "bin")
        ninja = os.path.join(bin_folder, "ninja")
        with open(ninja, "w") as file:
            file.write("#!/bin/sh\nexit 0\n")
        os.chmod(ninja, 0o755)
        self.pip(
            "--no-deps",
            "-r",
            REQUIREMENTS["detectron2"],
            CC="true",
            CXX="true",
            FORCE_CUDA="0",
            CUDA_VISIBLE_DEVICES="",  # with a GPU in sight it would want a CUDA compiler
            TORCH_DONT_CHECK_COMPILER_ABI="1",
            PATH=bin_folder + os.pathsep + os.environ.get("PATH", os.defpath),
        )

    def pip(self, *arguments: str, **environment: str) -> None:
        options = ["--no-build-isolation", "--progress-bar", "off", "--no-input"]
        self.call([VENV_PYTHON, "-m", "pip", "install", *options, *arguments], **environment)

    def call(self, command: list, **environment: str) -> str:
        """Output of a command, which also goes to the log; raises SetupError if it fails."""
        begin = os.path.getsize(LOG)
        with open(LOG, "ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=clean_environment(environment),
                cwd=ROOT,
            )
            try:
                self.watch(process)
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        with open(LOG, "rb") as log:
            log.seek(begin)
            output = log.read().decode("utf-8", "replace")
        self.check(process.returncode, output)
        return output

    def watch(self, process: subprocess.Popen) -> None:
        """Waits; a terminal sees one line that is renewed, a log file one line every 30 s."""
        terminal = sys.stdout.isatty()
        shown = time.time()
        while process.poll() is None:
            time.sleep(0.2)
            if time.time() - shown < (1 if terminal else 30):
                continue
            shown = time.time()
            line = f"      {self.elapsed()} {last_line(LOG)}"
            if terminal:
                width = shutil.get_terminal_size().columns - 1
                print("\r\033[K" + line[:width], end="", flush=True)
            else:
                print(line[:100], flush=True)
        if terminal:
            print("\r\033[K", end="", flush=True)

    def check(self, returncode: int, output: str) -> None:
        if returncode == 0:
            return
        if returncode == -signal.SIGKILL:
            output += "\nKilled"
        tail = "\n".join("  | " + line[:200] for line in output.strip().splitlines()[-15:])
        log = f" The full output: {LOG}" if os.path.exists(LOG) else ""
        raise SetupError(
            f"step {self.step}/{self.STEPS} failed; its last lines:\n{tail}\n{explain(output)}\n"
            f"Run `make env` again to go on from here.{log}"
        )

    def say(self, text: str) -> None:
        self.step += 1
        print(f"[{self.step}/{self.STEPS} {self.elapsed()}] {text}", flush=True)

    def elapsed(self) -> str:
        return "{:d}:{:02d}".format(*divmod(int(time.time() - self.start), 60))


def clean_environment(changes: dict) -> dict:
    """The environment for pip, without what would let it look or write elsewhere."""
    environment = dict(os.environ, TMPDIR=SCRATCH, PIP_DISABLE_PIP_VERSION_CHECK="1", **changes)
    for name in ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"):
        environment.pop(name, None)
    return environment


def quiet_call(command: list) -> tuple:
    """Exit status and output of a short command."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
    )
    output = process.communicate()[0].decode("utf-8", "replace")
    return process.returncode, output


def explain(output: str) -> str:
    """Reason and remedy of a failure, from what pip printed."""
    for pattern, reason, remedy in PIP_FAILURES:
        if re.search(pattern, output, re.MULTILINE):
            return f"Reason: {reason}.\nRemedy: {remedy}."
    return (
        "The set-up does not know this failure. If the lines above do not tell, start afresh: "
        f"rm -rf {VENV}"
    )


def last_line(path: str) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 2000))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextlib.contextmanager
def one_at_a_time():
    """Lets a second set-up of the same checkout wait for the first."""
    with open(os.path.abspath(__file__)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("environment: waiting for another `make env` in this checkout", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system that has no locks
            pass
        yield


def _raise_interrupt(*_) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
