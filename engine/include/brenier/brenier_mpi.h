/* SPDX-License-Identifier: MIT */
/* Flows over the processes of MPI, for C99 and all that calls C. Link brenier::mpi. */
#ifndef BRENIER_MPI_H
#define BRENIER_MPI_H

#include "brenier/brenier.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Flows of these settings are computed by all processes of a communicator together: each makes the same flow, from the same
 * settings and the same cloud, and then brenier_flow_step(), _run(), _value() of F and _set_functional() in the same order.
 * Each has all of the flow, and the same bits, for any number of processes. `communicator` is MPI_Comm_c2f(comm) in C and
 * the communicator itself in Fortran; it is duplicated, which all processes do here. MPI_Init_thread() comes before, and
 * settings and flows are destroyed before MPI_Finalize(). */
BRENIER_API int brenier_settings_mpi(brenier_settings* settings, int communicator);

#ifdef __cplusplus
}
#endif

#endif
