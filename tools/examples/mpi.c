/* SPDX-License-Identifier: MIT */
/* The Fokker-Planck equation in the well |x|^2/2 over all processes of MPI: mpirun -n 4 ./mpi. From N(2, 0.25) the exact
 * mean at time t is 2 exp(-t). Every process has the whole cloud afterwards, with the same bits. */
#include <brenier/brenier_mpi.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>

#define PARTICLES 1024

static const char* const kSettings =
    "threads = 1\n"
    "[cloud]\n"
    "density = \"gaussian\"\nmean = 2\nvariance = 0.25\nparticles = 1024\nsampling = \"whitened\"\n"
    "[[functional]]\nterm = \"potential\"\nexpression = \"0.5*x[0]^2\"\n"
    "[[functional]]\nterm = \"entropy\"\n"
    "[flow]\ntau = 0.1\norder = 2\n"
    "[network]\nhidden = [16, 8]\nquadratic_rank = 1\n";

int main(int argc, char** argv) {
  static double x[PARTICLES];
  brenier_settings* settings = NULL;
  brenier_flow* flow = NULL;
  double mean = 0, exact = 0, f = 0, ends[2], all[2];
  int threads, rank, size, good, i;

  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &threads);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  good = brenier_settings_create(&settings, kSettings, NULL) == BRENIER_OK &&
         brenier_settings_mpi(settings, (int)MPI_Comm_c2f(MPI_COMM_WORLD)) == BRENIER_OK &&
         brenier_flow_create(&flow, settings, 0, 0, BRENIER_DOUBLE, NULL, 1, 1, NULL) == BRENIER_OK &&
         brenier_flow_run(flow, 0.5, NULL, NULL) == BRENIER_OK &&
         brenier_flow_value(flow, "functional", &f) == BRENIER_OK &&
         brenier_flow_get_cloud(flow, BRENIER_DOUBLE, x, 1, 1, NULL) == BRENIER_OK;
  if (!good) fprintf(stderr, "rank %d: %s\n", rank, brenier_last_error());
  if (good) {
    exact = 2 * exp(-brenier_flow_time(flow));
    for (i = 0; i < PARTICLES; ++i) mean += x[i] / PARTICLES;
  }
  brenier_flow_destroy(flow);
  brenier_settings_destroy(settings);
  if (!good) MPI_Abort(MPI_COMM_WORLD, 1);
  /* The same everywhere: the largest of the means is minus the largest of their negatives. */
  ends[0] = mean;
  ends[1] = -mean;
  MPI_Allreduce(ends, all, 2, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  good = all[0] == -all[1] && fabs(mean - exact) < 0.01;
  if (rank == 0) printf("%d processes: mean %.4f, exact %.4f, F %.4f\n", size, mean, exact, f);
  MPI_Finalize();
  return good ? 0 : 1;
}
