# SPDX-License-Identifier: MIT
# The programs of an outside project that links brenier::brenier, found in SOURCE.

get_target_property(options brenier::brenier INTERFACE_COMPILE_OPTIONS)
if(options)
  message(FATAL_ERROR "the guest passes compile options on: ${options}")
endif()

add_executable(embed ${SOURCE}/tools/examples/embed.cpp)
# Hosts that look closely: the headers warn of nothing, optimised or not.
add_library(black_box OBJECT ${SOURCE}/docs/cookbook/black_box.cpp)
target_link_libraries(black_box PRIVATE brenier::brenier)
foreach(program embed black_box)
  target_compile_options(${program} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wall -Wextra -Wsign-conversion -Werror>)
endforeach()
# The host has headers of its own, under names of the library's, on everybody's include path. It runs when it is built.
add_executable(host ${SOURCE}/tests/packages/host/host.cpp)
target_compile_definitions(host PRIVATE HOST_PROGRAM)
foreach(program embed host)
  target_include_directories(${program} BEFORE PRIVATE ${SOURCE}/tests/packages/host)
  target_link_libraries(${program} PRIVATE brenier::brenier)
endforeach()
add_custom_command(TARGET host POST_BUILD COMMAND host)
