"""A process that has imported the large libraries and forks a kernel whenever it is asked: seconds less a notebook.

A forked kernel has none of another kernel's names or state: its parent only imports. `python nursery.py SOCKET -f
CONNECTION_FILE` asks that process for a kernel; the two end together."""
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback

LARGE = ("torch", "pandas", "scipy.stats", "matplotlib.figure", "PIL.Image", "pydantic", "accelerate", "tqdm.auto",
         "safetensors.torch", "pytest", "ipykernel.kernelapp")
SERVE = "import sys; sys.path.insert(1, sys.argv[2]); import nursery; nursery.serve(sys.argv[1])"     # no __main__ file


def serve(path):
    "Fork a kernel for everybody who asks, until this process is killed."
    for name in LARGE: importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{path}.new")
        server.listen()
        os.rename(f"{path}.new", path)      # it is there once it listens
        while True:
            asker, _ = server.accept()
            if os.fork() == 0: be_kernel(asker)
            asker.close()


def be_kernel(asker):
    "Serve the kernel that is asked for; end with it, and with who asked."
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    told = json.loads(asker.makefile().readline())
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["environment"])
    sys.path.remove(os.path.dirname(__file__))
    sys.modules["pandas"].set_option("display.max_columns", 20)       # what pandas chooses when a kernel imports it
    threading.Thread(target=lambda: (asker.recv(1), os._exit(0)), daemon=True).start()
    from ipykernel.kernelapp import IPKernelApp
    try: IPKernelApp.launch_instance(told["arguments"])
    except BaseException: traceback.print_exc()
    finally: os._exit(0)


def ask(path, *arguments):
    "Ask the process behind the socket at `path` for a kernel with these arguments, and wait for its end."
    environment = {name: value for name, value in os.environ.items() if name != "JPY_PARENT_PID"}
    with socket.socket(socket.AF_UNIX) as asker:
        asker.connect(path)
        told = {"folder": os.getcwd(), "environment": environment, "arguments": arguments}
        asker.sendall(json.dumps(told).encode() + b"\n")
        asker.recv(1)


def forked_kernels(manager, folder):
    "(a kernel manager like the class `manager`, whose kernels are forked; the process that forks them)."
    path, spec = f"{folder}/nursery", manager.kernel_spec
    inline = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}      # read when matplotlib is imported
    words = [sys.executable, "-c", SERVE, path, os.path.dirname(__file__)]
    environment = {**os.environ, **spec.env, **inline}
    nursery = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)      # ipykernel explains itself there
    while not os.path.exists(path):
        if nursery.poll() is not None: raise RuntimeError("the process that forks kernels has ended")
        time.sleep(.05)

    class Forked(manager):
        words = [sys.executable, "-S", __file__, path, "-f", "{connection_file}"]
        kernel_spec = type(spec)(**spec.to_dict() | {"argv": words})
    return Forked, nursery


if __name__ == "__main__": ask(*sys.argv[1:])
