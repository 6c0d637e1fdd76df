! SPDX-License-Identifier: MIT
! What a host does wrong: every status has its text, and what was there stays.
program mistakes
  use brenier
  use, intrinsic :: iso_fortran_env, only: real64
  implicit none

  character(*), parameter :: nl = new_line('a'), settings_text = 'threads = 1' // nl // &
    '[cloud]' // nl // 'density = "gaussian"' // nl // 'dim = 2' // nl // 'particles = 70' // nl // &
    '[[functional]]' // nl // 'term = "entropy"' // nl // '[flow]' // nl // 'tau = 0.05' // nl // &
    '[network]' // nl // 'hidden = [8]' // nl // 'quadratic_rank = 2' // nl

  type(brenier_settings) :: settings
  type(brenier_flow) :: flow
  type(brenier_maps) :: maps
  real(real64) :: x(2, 50), log_density(50), wrong(3, 50)
  real(real64), allocatable :: empty(:, :)
  integer :: i, status

  do i = 1, 50
    x(:, i) = [sin(1.7_real64 * i), cos(2.3_real64 * i)]
  end do
  log_density = -1
  wrong = 0
  allocate (empty(2, 0))
  call settings%create(settings_text, status)
  call expect('settings', brenier_ok, '')
  call flow%create(settings, empty, status)
  call expect('a cloud without particles', brenier_value_error, 'n = 0')
  if (flow%particles() /= 0) call fail('particles came from the settings')
  call flow%create(settings, x, status, log_density)
  call expect('flow', brenier_ok, '')
  call flow%step(status)
  call expect('step', brenier_ok, '')
  call flow%create(settings, x, status, log_density(1:49))
  call expect('create with too few numbers', brenier_shape_error, 'log_density has 49 values; x has 50 particles')
  if (flow%steps() /= 1) call fail('a create that fails ends the flow that was there')
  call flow%set_cloud(wrong, status, log_density)
  call expect('another dimension', brenier_shape_error, 'x is (3, 50); it must be (2, 50)')
  call flow%get_cloud(x(:, 1:49), status)
  call expect('too little room', brenier_shape_error, 'x is (2, 49); it must be (2, 50)')
  call flow%set_cloud(empty, status)
  if (status == brenier_ok) call fail('a cloud without particles is taken')
  call maps%of_flow(flow, status)
  call expect('maps', brenier_ok, '')
  call maps%push(x, wrong, status)
  call expect('images of another dimension', brenier_shape_error, 'y is (3, 50); it must be (2, 50)')
  call maps%log_density(x, log_density(1:3), status)
  call expect('too few numbers', brenier_shape_error, 'log_density has 3 values')
  call maps%load('nowhere', status)
  call expect('no file', brenier_io_error, 'nowhere')
  call maps%push(x, x, status)
  call expect('maps that were there', brenier_ok, '')
  call settings%create('a = ', status)
  call flow%create(settings, x, status, log_density)
  call expect('settings are checked where they are used', brenier_value_error, 'settings:1')
  call maps%destroy()
  call flow%destroy()
  call settings%destroy()

contains

  subroutine expect(what, wanted, text)
    character(*), intent(in) :: what, text
    integer, intent(in) :: wanted
    if (status == wanted .and. (wanted == brenier_ok .or. index(brenier_error(), text) > 0)) return
    print '(2a, i0, 2a)', what, ': status ', status, ', ', brenier_error()
    error stop 1
  end subroutine

  subroutine fail(what)
    character(*), intent(in) :: what
    print '(a)', what
    error stop 1
  end subroutine

end program
