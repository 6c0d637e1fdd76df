/* SPDX-License-Identifier: MIT */
/* The Fokker-Planck equation with a force field of the host, from N(2, 0.25): the exact mean at time t is 2 exp(-t). */
#include <brenier/brenier.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char* const kSettings =
    "threads = 1\n"
    "[cloud]\n"
    "density = \"gaussian\"\nmean = 2\nvariance = 0.25\nparticles = 400\nsampling = \"whitened\"\n"
    "[[functional]]\nterm = \"black_box\"\nname = \"spring\"\n"
    "[[functional]]\nterm = \"entropy\"\n"
    "[flow]\ntau = 0.1\norder = 2\n"
    "[network]\nhidden = [16, 8]\nquadratic_rank = 1\n";

struct spring {
  double stiffness;
  long points; /* at which it was asked */
};

static int spring(ptrdiff_t n, int d, const double* x, double* v, double* gradient, void* context) {
  struct spring* self = context;
  ptrdiff_t i;
  if (d != 1) return 1;
  for (i = 0; i < n; ++i) {
    if (v != NULL) v[i] = self->stiffness / 2 * x[i] * x[i];
    if (gradient != NULL) gradient[i] = self->stiffness * x[i];
  }
  self->points += (long)n;
  return 0;
}

static int progress(brenier_flow* flow, void* context) {
  double f = 0;
  (void)context;
  if (brenier_flow_value(flow, "functional", &f) != BRENIER_OK) return 1;
  printf("t = %.1f, F = %.5f\n", brenier_flow_time(flow), f);
  return 0;
}

static int check(int status) {
  if (status == BRENIER_OK) return 1;
  fprintf(stderr, "status %d: %s\n", status, brenier_last_error());
  return 0;
}

int main(void) {
  struct spring context = {1.0, 0};
  brenier_settings* settings = NULL;
  brenier_flow* flow = NULL;
  brenier_maps* maps = NULL;
  double *x = NULL, *log_density = NULL, mean = 0, exact = 0, point = 2, image = 0, density = 0;
  ptrdiff_t n = 0, i;
  int good;

  good = check(brenier_settings_create(&settings, kSettings, NULL)) &&
         check(brenier_settings_potential(settings, "spring", spring, &context, 0)) &&
         check(brenier_flow_create(&flow, settings, 0, 0, BRENIER_DOUBLE, NULL, 1, 1, NULL)) &&
         check(brenier_flow_run(flow, 0.5, progress, NULL));
  if (good) {
    n = brenier_flow_particles(flow);
    x = malloc((size_t)n * sizeof *x);
    log_density = malloc((size_t)n * sizeof *log_density);
    good = x != NULL && log_density != NULL &&
           check(brenier_flow_get_cloud(flow, BRENIER_DOUBLE, x, 1, 1, log_density));
  }
  if (good) {
    exact = 2 * exp(-brenier_flow_time(flow));
    for (i = 0; i < n; ++i) mean += x[i] / (double)n;
    /* Where the middle of the initial law has gone, and the density there. */
    good = check(brenier_maps_of_flow(&maps, flow)) &&
           check(brenier_maps_push(maps, 1, BRENIER_DOUBLE, &point, 1, 1, &image, 1, 1)) &&
           check(brenier_maps_log_density(maps, 1, BRENIER_DOUBLE, &image, 1, 1, &density));
    printf("brenier %s: mean %.4f, exact %.4f; 2 went to %.4f, log rho there %.4f; %ld points\n",
           brenier_version(), mean, exact, image, density, context.points);
    good = good && fabs(mean - exact) < 0.01 && fabs(image - exact) < 0.01 && density > -1 && density < 0;
  }
  free(x);
  free(log_density);
  brenier_maps_destroy(maps);
  brenier_flow_destroy(flow);
  brenier_settings_destroy(settings);
  return good ? 0 : 1;
}
