// SPDX-License-Identifier: MIT
// Arrays in .npz files: zip archives of .npy files (PKWARE's APPNOTE 6.3, with its 64-bit sizes).
#pragma once

#include "engine/src/files/input_file.hpp"

namespace brenier {

/// Narrows a .npz file to the .npy file in it: its one array, or the one that is called x. Any other file stays as it is,
/// at its start. IoError: a damaged archive, several arrays and none of them x. An array that is compressed is read into
/// memory.
void enter_archive(InputFile& file);

}  // namespace brenier
