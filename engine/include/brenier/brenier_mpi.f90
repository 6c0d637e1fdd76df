! SPDX-License-Identifier: MIT
! Flows over the processes of MPI for Fortran 2008: brenier/brenier_mpi.h says what it means. Compile this file with the
! program, after brenier.f90, and link brenier::mpi.
module brenier_mpi
  use, intrinsic :: iso_c_binding, only: c_int, c_ptr
  use brenier, only: brenier_settings
  implicit none
  private
  public :: brenier_settings_mpi

  interface
    integer(c_int) function c_settings_mpi(settings, communicator) bind(C, name='brenier_settings_mpi')
      import :: c_int, c_ptr
      type(c_ptr), value :: settings
      integer(c_int), value :: communicator
    end function
  end interface

contains

  !> Flows of these settings are computed by all processes of the communicator together: that of module mpi, or comm%MPI_VAL
  !> of module mpi_f08. A call that all of them make.
  subroutine brenier_settings_mpi(settings, communicator, status)
    class(brenier_settings), intent(in) :: settings
    integer, intent(in) :: communicator
    integer, intent(out) :: status
    status = c_settings_mpi(settings%address(), int(communicator, c_int))
  end subroutine

end module
