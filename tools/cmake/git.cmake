# SPDX-License-Identifier: MIT
# Writes OUTPUT from INPUT with what git says of SOURCE_DIR; the file is touched only where that changes. At build time:
# cmake -DSOURCE_DIR=... -DINPUT=... -DOUTPUT=... -P git.cmake
set(BRENIER_BUILD_GIT "")
find_program(git NAMES git)
if(git)
  execute_process(COMMAND ${git} -C ${SOURCE_DIR} rev-parse --show-toplevel OUTPUT_VARIABLE top ERROR_QUIET
                  OUTPUT_STRIP_TRAILING_WHITESPACE)
  file(REAL_PATH ${SOURCE_DIR} source)
  if(top STREQUAL source)  # not a repository around an unpacked archive
    execute_process(COMMAND ${git} -C ${SOURCE_DIR} describe --always --dirty --abbrev=12 OUTPUT_VARIABLE BRENIER_BUILD_GIT
                    ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  endif()
endif()
configure_file(${INPUT} ${OUTPUT} @ONLY)
