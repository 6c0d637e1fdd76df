! SPDX-License-Identifier: MIT
! A time loop of a host: it moves its particles with the wind, Brenier takes the step of the heat equation (splitting).
! From N(0, I) in the plane: the exact law at time t is N(wind t, (1 + 2 t) I).
program embed
  use brenier
  use, intrinsic :: iso_fortran_env, only: real64
  implicit none

  integer, parameter :: n = 256
  real(real64), parameter :: pi = acos(-1.0_real64), golden = (sqrt(5.0_real64) - 1) / 2, tau = 0.05_real64
  real(real64), parameter :: wind(2) = [1.0_real64, -0.5_real64]
  character(*), parameter :: settings_text = 'threads = 1' // new_line('a') // &
    '[[functional]]' // new_line('a') // 'term = "entropy"' // new_line('a') // &
    '[flow]' // new_line('a') // 'tau = 0.05' // new_line('a') // 'keep_maps = false' // new_line('a') // &
    '[network]' // new_line('a') // 'hidden = [12, 6]' // new_line('a') // 'quadratic_rank = 2' // new_line('a')

  type(brenier_settings) :: settings
  type(brenier_flow) :: flow
  real(real64) :: x(2, n), log_density(n), radius, angle, mean(2), variance, exact, energy
  integer :: i, step, status

  ! Spread evenly over the normal law.
  do i = 1, n
    radius = sqrt(-2 * log((i - 0.5_real64) / n))
    angle = 2 * pi * golden * i
    x(:, i) = radius * [cos(angle), sin(angle)]
    log_density(i) = -0.5_real64 * radius**2 - log(2 * pi)
  end do

  call settings%create(settings_text, status)
  call check('settings')
  call flow%create(settings, x, status, log_density)
  call check('flow')
  do step = 1, 10
    do i = 1, n
      x(:, i) = x(:, i) + tau * wind      ! exact, and densities move along
    end do
    call flow%set_cloud(x, status, log_density)
    call check('cloud')
    call flow%step(status)
    call check('step')
    call flow%get_cloud(x, status, log_density)
    call check('cloud')
  end do
  call flow%value('functional', energy, status)
  call check('value')

  mean = sum(x, dim=2) / n
  variance = sum((x - spread(mean, 2, n))**2) / (2 * n)
  exact = 1 + 2 * flow%time()
  print '(a, f5.2, a, 2f8.4, a, f8.4, a, f8.4, a, f9.5)', 't =', flow%time(), ': mean', mean, ', variance', variance, &
    ', exact', exact, '; F', energy
  call flow%destroy()
  call settings%destroy()
  if (any(abs(mean - wind * 0.5_real64) > 0.02_real64) .or. abs(variance - exact) > 0.05_real64 * exact) error stop 1

contains

  subroutine check(what)
    character(*), intent(in) :: what
    if (status == brenier_ok) return
    print '(a)', what // ': ' // brenier_error()
    error stop 2
  end subroutine

end program
