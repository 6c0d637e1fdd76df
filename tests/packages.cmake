# SPDX-License-Identifier: MIT
# The library as others use it: installed and found, and as a subdirectory. Both build and run the README's program.

set(prefix ${CMAKE_CURRENT_BINARY_DIR}/prefix)
add_test(NAME install COMMAND ${CMAKE_COMMAND} --install ${PROJECT_BINARY_DIR} --prefix ${prefix} --config $<CONFIG>)
set_tests_properties(install PROPERTIES LABELS package FIXTURES_SETUP installed)

# brenier_add_consumer(NAME OPTION...): configures, builds and runs the project tests/NAME.
function(brenier_add_consumer name)
  add_test(NAME ${name} COMMAND ${CMAKE_CTEST_COMMAND}
    --build-and-test ${CMAKE_CURRENT_SOURCE_DIR}/${name} ${CMAKE_CURRENT_BINARY_DIR}/${name}
    --build-generator ${CMAKE_GENERATOR} --build-makeprogram ${CMAKE_MAKE_PROGRAM} --build-noclean
    --build-options -DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER} -DSOURCE=${PROJECT_SOURCE_DIR} ${ARGN}
    --test-command embed)
  set_tests_properties(${name} PROPERTIES LABELS package TIMEOUT 1800)
endfunction()

brenier_add_consumer(consume_install -DCMAKE_PREFIX_PATH=${prefix} -DCMAKE_BUILD_TYPE=Release)
set_tests_properties(consume_install PROPERTIES FIXTURES_REQUIRED installed)
brenier_add_consumer(consume_subdir)
