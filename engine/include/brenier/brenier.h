/* SPDX-License-Identifier: MIT */
/* Brenier for C99, and for all that calls C: Wasserstein gradient flows by the JKO scheme with input-convex networks.
 *
 *   - Every function that can fail returns a status, BRENIER_OK where it did not; the text of the last failure of the
 *     calling thread is brenier_last_error(). A call that fails changes nothing. No exception leaves a call, and none ends
 *     the process.
 *   - Settings are TOML with the keys of a configuration file (docs/configuration.md).
 *   - Points are an address, a type and two strides, counted in elements: particle i has its coordinate c at
 *     x[i * particle_stride + c * component_stride]. Rows of d: (d, 1); a column of n for each coordinate: (1, n).
 *   - Handles belong to the caller, who destroys them. One handle, one thread at a time; different ones are independent.
 *     A flow that is inside of a call refuses another one (BRENIER_VALUE_ERROR), also from the functions of the host that it
 *     calls, but for brenier_flow_interrupt() and what returns no status. A progress function is called between two steps
 *     and may do all but destroy the flow.
 *   - Calls compute with floating-point exceptions that do not trap, rounding to nearest, whatever the host has set; the
 *     host's functions are called with what it has set, and it is there again when a call ends.
 */
#ifndef BRENIER_H
#define BRENIER_H

#include <stddef.h>

#include "brenier/export.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum brenier_status {
  BRENIER_OK = 0,
  BRENIER_VALUE_ERROR = 1,     /* a value outside of its range, a setting that cannot be used */
  BRENIER_SHAPE_ERROR = 2,     /* sizes that do not fit together */
  BRENIER_IO_ERROR = 3,        /* a file or bytes that cannot be read or written */
  BRENIER_NUMERICAL_ERROR = 4, /* a step that diverged, a NaN of a potential */
  BRENIER_NOT_AVAILABLE = 5,   /* this build or this machine does not have it */
  BRENIER_DEVICE_ERROR = 6,
  BRENIER_OUT_OF_MEMORY = 7,
  BRENIER_CALLBACK_ERROR = 8, /* a function of the host said that it failed: brenier_last_callback_code() */
  BRENIER_INTERNAL_ERROR = 9,
  BRENIER_INTERRUPTED = 10, /* by brenier_flow_interrupt() or a progress function; the step is undone */
  BRENIER_AT_END = 11,      /* flow.end_time or flow.steps is reached, where the settings name one */
  BRENIER_RANK_ERROR = 12   /* another process has failed, or they have come apart: brenier_mpi.h */
} brenier_status;

typedef enum brenier_type { BRENIER_DOUBLE = 0, BRENIER_FLOAT = 1 } brenier_type;

typedef struct brenier_settings brenier_settings;
typedef struct brenier_flow brenier_flow;
typedef struct brenier_maps brenier_maps;

/* Of the calling thread; never NULL, and good until its next call that fails. */
BRENIER_API const char* brenier_last_error(void);
/* For bindings: makes `text` the last failure of the calling thread, and returns the status. */
BRENIER_API int brenier_fail(int status, const char* text);
/* What the host's function returned, where the last failure is a BRENIER_CALLBACK_ERROR. */
BRENIER_API int brenier_last_callback_code(void);

/* "0.1.0"; and of the build as JSON: version, compiler, cuda, cpu_variants, threads. */
BRENIER_API const char* brenier_version(void);
BRENIER_API const char* brenier_build_info(void);

/* Frees what a save function has allocated. NULL is allowed, here and in the destroy functions. */
BRENIER_API void brenier_free(void* bytes);

/* --- settings ---------------------------------------------------------------------------------------------------- */

/* V of a host program at n points: v (n) and gradient (n, d), rows of d, each where it is not NULL. Both must belong
 * together, V up to a constant. Returns 0, or a number that ends the call with BRENIER_CALLBACK_ERROR. */
typedef int (*brenier_potential)(ptrdiff_t n, int d, const double* x, double* v, double* gradient,
                                 void* context);

/* The text is kept, and checked when it is used. File names in it are relative to `folder`, or to the current one where
 * that is NULL. */
BRENIER_API int brenier_settings_create(brenier_settings** settings, const char* toml, const char* folder);
/* Replaces one value: "flow.tau=1e-3". */
BRENIER_API int brenier_settings_set(brenier_settings* settings, const char* assignment);
/* What [[functional]] term = "black_box", name = NAME stands for. It is called from the thread that calls the flow,
 * unless `thread_safe` is not 0: then from several at once, each with particles of its own. */
BRENIER_API int brenier_settings_potential(brenier_settings* settings, const char* name, brenier_potential v,
                                           void* context, int thread_safe);
/* Flows of these settings are computed by `size` processes together; brenier_mpi.h does this for MPI and says more. The
 * host brings sums and parts of arrays to all: values (n) become their sums over the processes, in any order; and bytes
 * offsets[r] .. offsets[r + 1] of data, filled by process r, arrive in the same place on the others. 0, or a number that
 * ends the call with BRENIER_CALLBACK_ERROR. All processes make the same calls in the same order. */
typedef int (*brenier_sum)(double* values, ptrdiff_t n, void* context);
typedef int (*brenier_gather)(void* data, const size_t* offsets, void* context);
BRENIER_API int brenier_settings_ranks(brenier_settings* settings, int rank, int size, brenier_sum sum,
                                       brenier_gather gather, void* context);
BRENIER_API void brenier_settings_destroy(brenier_settings* settings);

/* --- flows ------------------------------------------------------------------------------------------------------- */

/* n particles in d dimensions. Their log-densities (n), natural logarithms, or NULL: internal energies (entropy, ...) need
 * them, or a [cloud] that is the law of the particles. With x = NULL the particles are drawn as [cloud] says:
 * n and d are then 0 or those of the [cloud], and log_density is NULL. */
BRENIER_API int brenier_flow_create(brenier_flow** flow, const brenier_settings* settings, ptrdiff_t n, int d,
                                    int type, const void* x, ptrdiff_t particle_stride,
                                    ptrdiff_t component_stride, const double* log_density);
BRENIER_API void brenier_flow_destroy(brenier_flow* flow);

BRENIER_API int brenier_flow_step(brenier_flow* flow);
/* Called after every step; not 0 ends the run with BRENIER_INTERRUPTED, after that step. */
typedef int (*brenier_progress)(brenier_flow* flow, void* context);
/* Steps until flow time is at least `time`, but for rounding. Steps have the length of the settings: choose a multiple. */
BRENIER_API int brenier_flow_run(brenier_flow* flow, double time, brenier_progress progress, void* context);
/* Ends a running step from another thread or a signal handler. */
BRENIER_API void brenier_flow_interrupt(brenier_flow* flow);

BRENIER_API int brenier_flow_dim(const brenier_flow* flow);
BRENIER_API ptrdiff_t brenier_flow_particles(const brenier_flow* flow);
BRENIER_API int brenier_flow_steps(const brenier_flow* flow);
BRENIER_API double brenier_flow_time(const brenier_flow* flow);

/* The particles, and their log-densities (n), each where it is not NULL; BRENIER_VALUE_ERROR where densities are not
 * known. */
BRENIER_API int brenier_flow_get_cloud(const brenier_flow* flow, int type, void* x, ptrdiff_t particle_stride,
                                       ptrdiff_t component_stride, double* log_density);
/* Another cloud from here on, of n particles: what the host has made of this one. The network stays warm; maps begin
 * anew. */
BRENIER_API int brenier_flow_set_cloud(brenier_flow* flow, ptrdiff_t n, int type, const void* x,
                                       ptrdiff_t particle_stride, ptrdiff_t component_stride,
                                       const double* log_density);
/* Both for addresses in the memory of the CUDA device that the flow runs on (device = "cuda" or "cuda:K"): x and log_density,
 * of which the particles stay on the device from step to step at order 1. `stream` is the cudaStream_t in which the host works
 * with them, NULL the default one: its earlier work is waited for, and its later work waits for what get writes; that call
 * returns before. BRENIER_VALUE_ERROR: an address of the host or of another device, or an array that ends outside of its
 * memory. */
BRENIER_API int brenier_flow_get_device_cloud(const brenier_flow* flow, int type, void* x,
                                              ptrdiff_t particle_stride, ptrdiff_t component_stride,
                                              double* log_density, void* stream);
BRENIER_API int brenier_flow_set_device_cloud(brenier_flow* flow, ptrdiff_t n, int type, const void* x,
                                              ptrdiff_t particle_stride, ptrdiff_t component_stride,
                                              const double* log_density, void* stream);
/* Another F from here on, that of these settings, [[functional]] and [parameters]; nothing else of them is used. */
BRENIER_API int brenier_flow_set_functional(brenier_flow* flow, const brenier_settings* settings);

/* One number by its name: F on the cloud now and its parts, "functional", "functional.potential", ".interaction",
 * ".internal", ".divergence"; "held_out", F on the held-out cloud; or any number of the report of the last step, "step",
 * "time", "tau", "transport", "decrease", "iterations", "solved" (0 or 1), "missed_share", ... (NaN: not known). */
BRENIER_API int brenier_flow_value(const brenier_flow* flow, const char* name, double* value);
/* The report of the last step as JSON, "{}" before the first; good until the next call with this flow. NULL: failed. */
BRENIER_API const char* brenier_flow_report(const brenier_flow* flow);
/* All settings with their effective values, as TOML; good until F is replaced or the flow ends. */
BRENIER_API const char* brenier_flow_settings(const brenier_flow* flow);

/* All of a flow between two steps. A flow that was created with the same settings goes on from it bit for bit; potentials
 * of the host are given again with these. One of another functional, order or [cloud] is refused, and changes nothing. The
 * bytes are to be freed with brenier_free(). */
BRENIER_API int brenier_flow_save(const brenier_flow* flow, void** bytes, size_t* size);
BRENIER_API int brenier_flow_load(brenier_flow* flow, const void* bytes, size_t size);
BRENIER_API int brenier_flow_save_file(const brenier_flow* flow, const char* path);
BRENIER_API int brenier_flow_load_file(brenier_flow* flow, const char* path);

/* --- maps: from one cloud to another, and densities --------------------------------------------------------------- */

/* The maps since the cloud was given (flow.keep_maps = true, the default), with the law of that cloud where [cloud] says it. */
BRENIER_API int brenier_maps_of_flow(brenier_maps** maps, const brenier_flow* flow);
/* From a file or memory; `settings`, or NULL, have the law in [cloud], and perhaps `threads`; nothing else is used. */
BRENIER_API int brenier_maps_load_file(brenier_maps** maps, const char* path,
                                       const brenier_settings* settings);
BRENIER_API int brenier_maps_load(brenier_maps** maps, const void* bytes, size_t size,
                                  const brenier_settings* settings);
BRENIER_API int brenier_maps_save_file(const brenier_maps* maps, const char* path);
BRENIER_API int brenier_maps_save(const brenier_maps* maps, void** bytes, size_t* size);
BRENIER_API void brenier_maps_destroy(brenier_maps* maps);
BRENIER_API int brenier_maps_dim(const brenier_maps* maps);

/* Carries n points x through all maps to y, or back from y to x: NaN where nothing comes from (outside of the range of
 * a map, or Newton's method did not find it). The same address for both is allowed. */
BRENIER_API int brenier_maps_push(const brenier_maps* maps, ptrdiff_t n, int type, const void* x,
                                  ptrdiff_t x_particle_stride, ptrdiff_t x_component_stride, void* y,
                                  ptrdiff_t y_particle_stride, ptrdiff_t y_component_stride);
BRENIER_API int brenier_maps_pull(const brenier_maps* maps, ptrdiff_t n, int type, const void* y,
                                  ptrdiff_t y_particle_stride, ptrdiff_t y_component_stride, void* x,
                                  ptrdiff_t x_particle_stride, ptrdiff_t x_component_stride);
/* log rho (n) at n points; -infinity outside of the support, NaN where Newton's method did not find the origin, and at NaN.
 * Needs the law. */
BRENIER_API int brenier_maps_log_density(const brenier_maps* maps, ptrdiff_t n, int type, const void* y,
                                         ptrdiff_t particle_stride, ptrdiff_t component_stride,
                                         double* log_density);
/* n independent particles of the law, carried through the maps; log_density (n) or NULL. Needs the law. */
BRENIER_API int brenier_maps_sample(const brenier_maps* maps, ptrdiff_t n, unsigned long long seed, int type,
                                    void* x, ptrdiff_t particle_stride, ptrdiff_t component_stride,
                                    double* log_density);

#ifdef __cplusplus
}
#endif

#endif
