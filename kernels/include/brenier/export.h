/* SPDX-License-Identifier: MIT */
/* What a shared library of Brenier shows: what is declared in its installed headers. All else in it is hidden. */
#ifndef BRENIER_EXPORT_H
#define BRENIER_EXPORT_H

#if defined(BRENIER_EXPORTS_NOTHING) || defined(__CUDACC__) || !defined(__GNUC__)
#define BRENIER_API /* in a static library: a host's own shared library does not show ours */
#define BRENIER_HIDDEN
#elif defined(__cplusplus)
#define BRENIER_API [[gnu::visibility("default")]]
#define BRENIER_HIDDEN [[gnu::visibility("hidden")]]
#else
#define BRENIER_API __attribute__((visibility("default")))
#define BRENIER_HIDDEN __attribute__((visibility("hidden")))
#endif

#endif
