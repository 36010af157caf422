#!/usr/bin/env python3
"""Compiles device code as nvcc 12 does, from what PyPI has of it: NVRTC, ptxas, and the fatbinary of a newer toolkit.

Linked as DIRECTORY/bin/nvcc, it takes the options that this project's build gives nvcc. DIRECTORY/nvidia is of the
packages nvidia-cuda-nvrtc-cu12, nvidia-cuda-nvcc-cu12 and nvidia-cuda-nvcc.
"""

import argparse
import ctypes
import re
import subprocess
import sys
from pathlib import Path

PACKAGES = Path(sys.argv[0]).absolute().parent.parent / "nvidia"
PTXAS = PACKAGES / "cuda_nvcc/bin/ptxas"
FATBINARY = PACKAGES / "cu13/bin/fatbinary"
# What the host's headers give device code under nvcc.
STDINT = b"""
#define INFINITY __int_as_float(0x7f800000)
typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long int64_t;
typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned uint32_t;
typedef unsigned long uint64_t;
typedef unsigned long uintptr_t;
"""


class Nvrtc:
    def __init__(self):
        directory = PACKAGES / "cuda_nvrtc/lib"
        for builtins in directory.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(builtins))  # NVRTC asks for it by name
        self.nvrtc = ctypes.CDLL(str(directory / "libnvrtc.so.12"))

    def text(self, program, what):
        size = ctypes.c_size_t()
        getattr(self.nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self.nvrtc, f"nvrtcGet{what}")(program, buffer)
        return buffer.value

    def compile(self, source, options):
        """PTX, or an exit with the compiler's words."""
        program = ctypes.c_void_p()
        headers, names = (ctypes.c_char_p * 1)(STDINT), (ctypes.c_char_p * 1)(b"stdint.h")
        arguments = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        self.nvrtc.nvrtcCreateProgram(
            ctypes.byref(program), source.read_bytes(), str(source).encode(), 1, headers, names
        )
        failed = self.nvrtc.nvrtcCompileProgram(program, len(options), arguments)
        sys.stderr.write(self.text(program, "ProgramLog").decode())
        if failed:
            sys.exit(1)
        return self.text(program, "PTX")


def show_version():
    text = subprocess.run([PTXAS, "--version"], capture_output=True, text=True, check=True).stdout
    print(re.search(r"release .*", text)[0])


def main():
    if sys.argv[1:] == ["--version"]:
        return show_version()
    parser = argparse.ArgumentParser(prefix_chars="-", allow_abbrev=False)
    parser.add_argument("-fatbin", action="store_true", required=True)
    parser.add_argument("-gencode", action="append", required=True)
    parser.add_argument("-Xptxas", default="")
    parser.add_argument("-MD", action="store_true")
    parser.add_argument("-MF", "-MT")
    parser.add_argument("-I", action="append", default=[])
    parser.add_argument("-o", type=Path, required=True)
    parser.add_argument("-std", required=True)
    parser.add_argument("-O3", action="store_true")
    parser.add_argument("source", type=Path)
    o = parser.parse_args()

    images = []
    nvrtc = Nvrtc()
    for gencode in o.gencode:
        arch, code = re.fullmatch(r"arch=(compute_\w+),code=(\w+)", gencode).groups()
        options = [f"--gpu-architecture={arch}", f"-std={o.std}", f"-I{o.source.parent}", *(f"-I{i}" for i in o.I)]
        ptx = o.o.with_suffix(f".{arch}.ptx")
        ptx.write_bytes(nvrtc.compile(o.source, options))
        kind, number = code.split("_")
        image = ptx
        if kind == "sm":
            image = o.o.with_suffix(f".{code}.cubin")
            flags = [flag for flag in o.Xptxas.split(",") if flag]
            subprocess.run([PTXAS, f"-arch={code}", *flags, ptx, "-o", image], check=True)
        images.append(f"--image3=kind={'elf' if kind == 'sm' else 'ptx'},sm={number},file={image}")
    subprocess.run([FATBINARY, "-64", f"--create={o.o}", *images], check=True)
    return None


main()
