# SPDX-License-Identifier: MIT
"""Brenier for Spack. In a folder with a repo.yaml: `spack repo add tools/spack`, `spack dev-build brenier@main`."""

from spack.package import *


class Brenier(CMakePackage, CudaPackage):
    """Wasserstein gradient flows by the JKO scheme with input-convex neural networks."""

    license("MIT")
    version("main")  # the source tree that `spack dev-build` stands in

    variant("shared", default=True, description="A shared library in the place of an archive")
    variant("tools", default=True, description="The brenier command")
    variant("mpi", default=False, description="Flows over several processes")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.22:", type="build")
    depends_on("eigen@3.3:", type="build")
    depends_on("nlohmann-json@3.9:", type="build")
    depends_on("tomlplusplus@3:", type="build")
    depends_on("xxhash", type="build")
    depends_on("zlib-api")
    depends_on("cli11", type="build", when="+tools")
    depends_on("mpi", when="+mpi")

    conflicts("%gcc@:11", msg="Brenier needs the C++20 of g++ 12")
    conflicts("cuda_arch=none", when="+cuda", msg="say which devices: cuda_arch=90")

    def cmake_args(self):
        """What the variants stand for."""
        args = [
            self.define_from_variant("BUILD_SHARED_LIBS", "shared"),
            self.define_from_variant("BRENIER_TOOLS", "tools"),
            self.define_from_variant("BRENIER_CUDA", "cuda"),
            self.define_from_variant("BRENIER_MPI", "mpi"),
            self.define("BRENIER_TESTS", False),
            self.define("BRENIER_BENCH", False),
        ]
        if self.spec.satisfies("+cuda"):
            args.append(self.define("CMAKE_CUDA_ARCHITECTURES", self.spec.variants["cuda_arch"].value))
        return args
