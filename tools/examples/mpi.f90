! SPDX-License-Identifier: MIT
! The heat equation in the plane over all processes of MPI: mpirun -n 4 ./mpi. From N(0, I) the exact law at time t is
! N(0, (1 + 2 t) I). Every process has the whole cloud afterwards, with the same bits.
program embed
  use mpi
  use brenier
  use brenier_mpi
  use, intrinsic :: iso_fortran_env, only: real64
  implicit none

  integer, parameter :: n = 256
  real(real64), parameter :: pi = acos(-1.0_real64), golden = (sqrt(5.0_real64) - 1) / 2
  character(*), parameter :: settings_text = 'threads = 1' // new_line('a') // &
    '[[functional]]' // new_line('a') // 'term = "entropy"' // new_line('a') // &
    '[flow]' // new_line('a') // 'tau = 0.05' // new_line('a') // &
    '[network]' // new_line('a') // 'hidden = [12, 6]' // new_line('a') // 'quadratic_rank = 2' // new_line('a')

  type(brenier_settings) :: settings
  type(brenier_flow) :: flow
  real(real64) :: x(2, n), log_density(n), radius, angle, variance, exact, ends(2), all(2)
  integer :: i, status, code, threads, rank, ranks
  logical :: good

  call MPI_Init_thread(MPI_THREAD_FUNNELED, threads, code)
  call MPI_Comm_rank(MPI_COMM_WORLD, rank, code)
  call MPI_Comm_size(MPI_COMM_WORLD, ranks, code)

  ! Spread evenly over the normal law.
  do i = 1, n
    radius = sqrt(-2 * log((i - 0.5_real64) / n))
    angle = 2 * pi * golden * i
    x(:, i) = radius * [cos(angle), sin(angle)]
    log_density(i) = -0.5_real64 * radius**2 - log(2 * pi)
  end do

  call settings%create(settings_text, status)
  call check('settings')
  call brenier_settings_mpi(settings, MPI_COMM_WORLD, status)
  call check('processes')
  call flow%create(settings, x, status, log_density)
  call check('flow')
  call flow%run(0.2_real64, status)
  call check('run')
  call flow%get_cloud(x, status, log_density)
  call check('cloud')

  variance = sum(x**2) / (2 * n)
  exact = 1 + 2 * flow%time()
  call flow%destroy()      ! before MPI_Finalize
  call settings%destroy()
  ! The same everywhere: the largest of the variances is minus the largest of their negatives.
  ends = [variance, -variance]
  call MPI_Allreduce(ends, all, 2, MPI_DOUBLE_PRECISION, MPI_MAX, MPI_COMM_WORLD, code)
  good = .not. (all(1) < -all(2) .or. all(1) > -all(2)) .and. abs(variance - exact) < 0.05_real64 * exact
  if (rank == 0) print '(i0, a, f8.4, a, f8.4)', ranks, ' processes: variance', variance, ', exact', exact
  call MPI_Finalize(code)
  if (.not. good) error stop 1

contains

  subroutine check(what)
    character(*), intent(in) :: what
    if (status == brenier_ok) return
    print '(a)', what // ': ' // brenier_error()
    call MPI_Abort(MPI_COMM_WORLD, 2, code)
  end subroutine

end program
