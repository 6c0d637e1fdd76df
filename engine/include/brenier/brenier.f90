! SPDX-License-Identifier: MIT
! Brenier for Fortran 2008: the interface of brenier/brenier.h with types that hold its handles. Compile this file with
! the program. Points are arrays (d, n), real32 or real64, sections of arrays too (nothing is copied). Every procedure
! returns a status, brenier_ok where it did not fail; otherwise brenier_error() has the text, and nothing has changed: also
! where create or load is called again, and a handle is there already.
module brenier
  use, intrinsic :: iso_c_binding
  use, intrinsic :: iso_fortran_env, only: real32, real64, int64
  implicit none
  private

  public :: brenier_settings, brenier_flow, brenier_maps, brenier_potential, brenier_error, brenier_version

  integer, parameter, public :: brenier_ok = 0, brenier_value_error = 1, brenier_shape_error = 2, brenier_io_error = 3
  integer, parameter, public :: brenier_numerical_error = 4, brenier_not_available = 5, brenier_device_error = 6
  integer, parameter, public :: brenier_out_of_memory = 7, brenier_callback_error = 8, brenier_internal_error = 9
  integer, parameter, public :: brenier_interrupted = 10, brenier_at_end = 11, brenier_rank_error = 12

  integer(c_int), parameter :: type_double = 0, type_float = 1
  integer(c_int), target, save :: nothing = 0  ! what arrays without elements are the address of
  integer, parameter, public :: brenier_index = c_intptr_t  ! ptrdiff_t, for which Fortran 2008 has no name

  !> TOML with the keys of a configuration file.
  type :: brenier_settings
    private
    type(c_ptr) :: handle = c_null_ptr
  contains
    procedure :: create => settings_create
    procedure :: set => settings_set              ! one value: 'flow.tau=1e-3'
    procedure :: potential => settings_potential  ! of a term "black_box"
    procedure :: destroy => settings_destroy
    procedure :: address => settings_address      ! in C, for modules such as brenier_mpi
  end type

  type :: brenier_flow
    private
    type(c_ptr) :: handle = c_null_ptr
  contains
    procedure, private :: create32, create64, get32, get64, set32, set64
    generic :: create => create32, create64       ! settings, x(d, n), status, log_density
    generic :: get_cloud => get32, get64          ! x(d, n), status, log_density
    generic :: set_cloud => set32, set64
    procedure :: set_functional => flow_set_functional
    procedure :: step => flow_step
    procedure :: run => flow_run                  ! to a time
    procedure :: value => flow_value              ! a number by its name
    procedure :: report => flow_report            ! of the last step, JSON
    procedure :: dim => flow_dim
    procedure :: particles => flow_particles
    procedure :: steps => flow_steps
    procedure :: time => flow_time
    procedure :: save => flow_save                ! a checkpoint as a file
    procedure :: load => flow_load
    procedure :: destroy => flow_destroy
  end type

  !> Maps of a flow: to carry other points, and densities.
  type :: brenier_maps
    private
    type(c_ptr) :: handle = c_null_ptr
  contains
    procedure :: of_flow => maps_of_flow
    procedure :: push => maps_push                ! x(d, n), y(d, n)
    procedure :: pull => maps_pull
    procedure :: log_density => maps_log_density
    procedure :: sample => maps_sample
    procedure :: save => maps_save
    procedure :: load => maps_load
    procedure :: destroy => maps_destroy
  end type

  abstract interface
    !> V at n points x(d, n): v(n) and gradient(d, n), each where it is associated. 0, or a number that ends the call.
    integer(c_int) function brenier_potential(n, d, x, v, gradient, context) bind(C)
      import :: brenier_index, c_int, c_ptr
      integer(brenier_index), value :: n
      integer(c_int), value :: d
      type(c_ptr), value :: x, v, gradient, context
    end function
  end interface
  interface
    function c_last_error() bind(C, name='brenier_last_error') result(text)
      import :: c_ptr
      type(c_ptr) :: text
    end function
    integer(c_int) function c_fail(status, text) bind(C, name='brenier_fail')
      import :: c_int, c_char
      integer(c_int), value :: status
      character(kind=c_char), intent(in) :: text(*)
    end function
    function c_version() bind(C, name='brenier_version') result(text)
      import :: c_ptr
      type(c_ptr) :: text
    end function
    integer(c_int) function c_settings_create(settings, toml, folder) bind(C, name='brenier_settings_create')
      import :: c_int, c_ptr, c_char
      type(c_ptr), intent(inout) :: settings
      character(kind=c_char), intent(in) :: toml(*)
      type(c_ptr), value :: folder
    end function
    integer(c_int) function c_settings_set(settings, assignment) bind(C, name='brenier_settings_set')
      import :: c_int, c_ptr, c_char
      type(c_ptr), value :: settings
      character(kind=c_char), intent(in) :: assignment(*)
    end function
    integer(c_int) function c_settings_potential(settings, name, v, context, thread_safe) &
        bind(C, name='brenier_settings_potential')
      import :: c_int, c_ptr, c_char, c_funptr
      type(c_ptr), value :: settings, context
      character(kind=c_char), intent(in) :: name(*)
      type(c_funptr), value :: v
      integer(c_int), value :: thread_safe
    end function
    subroutine c_settings_destroy(settings) bind(C, name='brenier_settings_destroy')
      import :: c_ptr
      type(c_ptr), value :: settings
    end subroutine
    integer(c_int) function c_flow_create(flow, settings, n, d, kind, x, ps, cs, log_density) &
        bind(C, name='brenier_flow_create')
      import :: c_int, c_ptr, brenier_index
      type(c_ptr), intent(inout) :: flow
      type(c_ptr), value :: settings, x, log_density
      integer(brenier_index), value :: n, ps, cs
      integer(c_int), value :: d, kind
    end function
    subroutine c_flow_destroy(flow) bind(C, name='brenier_flow_destroy')
      import :: c_ptr
      type(c_ptr), value :: flow
    end subroutine
    integer(c_int) function c_flow_step(flow) bind(C, name='brenier_flow_step')
      import :: c_int, c_ptr
      type(c_ptr), value :: flow
    end function
    integer(c_int) function c_flow_run(flow, time, progress, context) bind(C, name='brenier_flow_run')
      import :: c_int, c_ptr, c_double, c_funptr
      type(c_ptr), value :: flow, context
      real(c_double), value :: time
      type(c_funptr), value :: progress
    end function
    integer(c_int) function c_flow_dim(flow) bind(C, name='brenier_flow_dim')
      import :: c_int, c_ptr
      type(c_ptr), value :: flow
    end function
    integer(brenier_index) function c_flow_particles(flow) bind(C, name='brenier_flow_particles')
      import :: c_ptr, brenier_index
      type(c_ptr), value :: flow
    end function
    integer(c_int) function c_flow_steps(flow) bind(C, name='brenier_flow_steps')
      import :: c_int, c_ptr
      type(c_ptr), value :: flow
    end function
    real(c_double) function c_flow_time(flow) bind(C, name='brenier_flow_time')
      import :: c_ptr, c_double
      type(c_ptr), value :: flow
    end function
    integer(c_int) function c_flow_get_cloud(flow, kind, x, ps, cs, log_density) bind(C, name='brenier_flow_get_cloud')
      import :: c_int, c_ptr, brenier_index
      type(c_ptr), value :: flow, x, log_density
      integer(c_int), value :: kind
      integer(brenier_index), value :: ps, cs
    end function
    integer(c_int) function c_flow_set_cloud(flow, n, kind, x, ps, cs, log_density) bind(C, name='brenier_flow_set_cloud')
      import :: c_int, c_ptr, brenier_index
      type(c_ptr), value :: flow, x, log_density
      integer(c_int), value :: kind
      integer(brenier_index), value :: n, ps, cs
    end function
    integer(c_int) function c_flow_set_functional(flow, settings) bind(C, name='brenier_flow_set_functional')
      import :: c_int, c_ptr
      type(c_ptr), value :: flow, settings
    end function
    integer(c_int) function c_flow_value(flow, name, number) bind(C, name='brenier_flow_value')
      import :: c_int, c_ptr, c_char, c_double
      type(c_ptr), value :: flow
      character(kind=c_char), intent(in) :: name(*)
      real(c_double), intent(inout) :: number
    end function
    function c_flow_report(flow) bind(C, name='brenier_flow_report') result(text)
      import :: c_ptr
      type(c_ptr), value :: flow
      type(c_ptr) :: text
    end function
    integer(c_int) function c_flow_save_file(flow, path) bind(C, name='brenier_flow_save_file')
      import :: c_int, c_ptr, c_char
      type(c_ptr), value :: flow
      character(kind=c_char), intent(in) :: path(*)
    end function
    integer(c_int) function c_flow_load_file(flow, path) bind(C, name='brenier_flow_load_file')
      import :: c_int, c_ptr, c_char
      type(c_ptr), value :: flow
      character(kind=c_char), intent(in) :: path(*)
    end function
    integer(c_int) function c_maps_of_flow(maps, flow) bind(C, name='brenier_maps_of_flow')
      import :: c_int, c_ptr
      type(c_ptr), intent(inout) :: maps
      type(c_ptr), value :: flow
    end function
    integer(c_int) function c_maps_load_file(maps, path, settings) bind(C, name='brenier_maps_load_file')
      import :: c_int, c_ptr, c_char
      type(c_ptr), intent(inout) :: maps
      character(kind=c_char), intent(in) :: path(*)
      type(c_ptr), value :: settings
    end function
    integer(c_int) function c_maps_save_file(maps, path) bind(C, name='brenier_maps_save_file')
      import :: c_int, c_ptr, c_char
      type(c_ptr), value :: maps
      character(kind=c_char), intent(in) :: path(*)
    end function
    integer(c_int) function c_maps_dim(maps) bind(C, name='brenier_maps_dim')
      import :: c_int, c_ptr
      type(c_ptr), value :: maps
    end function
    subroutine c_maps_destroy(maps) bind(C, name='brenier_maps_destroy')
      import :: c_ptr
      type(c_ptr), value :: maps
    end subroutine
    integer(c_int) function c_maps_push(maps, n, kind, x, xps, xcs, y, yps, ycs) bind(C, name='brenier_maps_push')
      import :: c_int, c_ptr, brenier_index
      type(c_ptr), value :: maps, x, y
      integer(brenier_index), value :: n, xps, xcs, yps, ycs
      integer(c_int), value :: kind
    end function
    integer(c_int) function c_maps_pull(maps, n, kind, y, yps, ycs, x, xps, xcs) bind(C, name='brenier_maps_pull')
      import :: c_int, c_ptr, brenier_index
      type(c_ptr), value :: maps, x, y
      integer(brenier_index), value :: n, xps, xcs, yps, ycs
      integer(c_int), value :: kind
    end function
    integer(c_int) function c_maps_log_density(maps, n, kind, y, ps, cs, log_density) &
        bind(C, name='brenier_maps_log_density')
      import :: c_int, c_ptr, brenier_index, c_double
      type(c_ptr), value :: maps, y
      integer(brenier_index), value :: n, ps, cs
      integer(c_int), value :: kind
      real(c_double), intent(inout) :: log_density(*)
    end function
    integer(c_int) function c_maps_sample(maps, n, seed, kind, x, ps, cs, log_density) &
        bind(C, name='brenier_maps_sample')
      import :: c_int, c_ptr, brenier_index, c_long_long
      type(c_ptr), value :: maps, x, log_density
      integer(brenier_index), value :: n, ps, cs
      integer(c_long_long), value :: seed
      integer(c_int), value :: kind
    end function
    integer(c_size_t) function c_strlen(text) bind(C, name='strlen')
      import :: c_ptr, c_size_t
      type(c_ptr), value :: text
    end function
  end interface

contains

  !> The text of the last failure of this thread.
  function brenier_error() result(text)
    character(:), allocatable :: text
    text = text_of(c_last_error())
  end function

  function brenier_version() result(text)
    character(:), allocatable :: text
    text = text_of(c_version())
  end function

  function text_of(address) result(text)
    type(c_ptr), intent(in) :: address
    character(:), allocatable :: text
    character(kind=c_char), pointer :: letters(:)
    integer :: i, length
    length = 0
    if (c_associated(address)) length = int(c_strlen(address))
    allocate (character(length) :: text)
    if (length == 0) return
    call c_f_pointer(address, letters, [length])
    do i = 1, length
      text(i:i) = letters(i)
    end do
  end function

  function c_text(text) result(out)
    character(*), intent(in) :: text
    character(len_trim(text) + 1, c_char) :: out
    out = trim(text) // c_null_char
  end function

  !> From one address to another, in elements.
  integer(brenier_index) function stride(first, second, bytes)
    type(c_ptr), intent(in) :: first, second
    integer, intent(in) :: bytes
    stride = (transfer(second, 0_brenier_index) - transfer(first, 0_brenier_index)) / bytes
  end function

  !> How far apart the particles and the coordinates of an array, or of a section of one, are.
  subroutine strides32(x, first, ps, cs)
    real(real32), intent(in), target :: x(:, :)
    type(c_ptr), intent(out) :: first
    integer(brenier_index), intent(out) :: ps, cs
    first = c_loc(nothing)  ! not NULL, which would stand for an array that is not given
    ps = 1
    cs = 1
    if (size(x) == 0) return
    first = c_loc(x(1, 1))
    if (size(x, 1) > 1) cs = stride(first, c_loc(x(2, 1)), 4)
    if (size(x, 2) > 1) ps = stride(first, c_loc(x(1, 2)), 4)
  end subroutine

  !> How far apart the particles and the coordinates of an array, or of a section of one, are.
  subroutine strides64(x, first, ps, cs)
    real(real64), intent(in), target :: x(:, :)
    type(c_ptr), intent(out) :: first
    integer(brenier_index), intent(out) :: ps, cs
    first = c_loc(nothing)  ! not NULL, which would stand for an array that is not given
    ps = 1
    cs = 1
    if (size(x) == 0) return
    first = c_loc(x(1, 1))
    if (size(x, 1) > 1) cs = stride(first, c_loc(x(2, 1)), 8)
    if (size(x, 2) > 1) ps = stride(first, c_loc(x(1, 2)), 8)
  end subroutine

  !> The address of n numbers one after the other, or NULL where they are not there.
  function optional_address(values) result(address)
    real(real64), intent(in), optional, target, contiguous :: values(:)
    type(c_ptr) :: address
    address = c_null_ptr
    if (present(values)) address = c_loc(values)
  end function

  ! --- settings ----------------------------------------------------------------------------------------------------

  subroutine settings_create(self, toml, status)
    class(brenier_settings), intent(inout) :: self
    character(*), intent(in) :: toml
    integer, intent(out) :: status
    type(c_ptr) :: made
    made = c_null_ptr
    status = c_settings_create(made, c_text(toml), c_null_ptr)
    if (status /= brenier_ok) return
    call self%destroy()
    self%handle = made
  end subroutine

  subroutine settings_set(self, assignment, status)
    class(brenier_settings), intent(inout) :: self
    character(*), intent(in) :: assignment
    integer, intent(out) :: status
    status = c_settings_set(self%handle, c_text(assignment))
  end subroutine

  subroutine settings_potential(self, name, v, status, context, thread_safe)
    class(brenier_settings), intent(inout) :: self
    character(*), intent(in) :: name
    procedure(brenier_potential) :: v
    integer, intent(out) :: status
    type(c_ptr), intent(in), optional :: context
    logical, intent(in), optional :: thread_safe
    type(c_ptr) :: address
    integer(c_int) :: safe
    address = c_null_ptr
    if (present(context)) address = context
    safe = 0
    if (present(thread_safe)) safe = merge(1_c_int, 0_c_int, thread_safe)
    status = c_settings_potential(self%handle, c_text(name), c_funloc(v), address, safe)
  end subroutine

  subroutine settings_destroy(self)
    class(brenier_settings), intent(inout) :: self
    call c_settings_destroy(self%handle)
    self%handle = c_null_ptr
  end subroutine

  type(c_ptr) function settings_address(self)
    class(brenier_settings), intent(in) :: self
    settings_address = self%handle
  end function

  ! --- flows -------------------------------------------------------------------------------------------------------

  subroutine create32(self, settings, x, status, log_density)
    class(brenier_flow), intent(inout) :: self
    class(brenier_settings), intent(in) :: settings
    real(real32), intent(in) :: x(:, :)
    integer, intent(out) :: status
    real(real64), intent(in), optional, contiguous :: log_density(:)
    type(c_ptr) :: first, made
    integer(brenier_index) :: ps, cs
    call strides32(x, first, ps, cs)
    made = c_null_ptr
    status = fitting(log_density, size(x, 2))
    if (status == brenier_ok) status = c_flow_create(made, settings%handle, size(x, 2, brenier_index), size(x, 1, c_int), &
                                                     type_float, first, ps, cs, optional_address(log_density))
    if (status /= brenier_ok) return
    call self%destroy()
    self%handle = made
  end subroutine

  subroutine get32(self, x, status, log_density)
    class(brenier_flow), intent(in) :: self
    real(real32), intent(inout) :: x(:, :)
    integer, intent(out) :: status
    real(real64), intent(inout), optional, contiguous :: log_density(:)
    type(c_ptr) :: first
    integer(brenier_index) :: ps, cs
    status = shaped('x', shape(x), self%dim(), int(self%particles()))
    if (status == brenier_ok) status = fitting(log_density, size(x, 2))
    call strides32(x, first, ps, cs)
    if (status == brenier_ok) status = c_flow_get_cloud(self%handle, type_float, first, ps, cs, optional_address(log_density))
  end subroutine

  subroutine set32(self, x, status, log_density)
    class(brenier_flow), intent(inout) :: self
    real(real32), intent(in) :: x(:, :)
    integer, intent(out) :: status
    real(real64), intent(in), optional, contiguous :: log_density(:)
    type(c_ptr) :: first
    integer(brenier_index) :: ps, cs
    status = shaped('x', shape(x), self%dim(), size(x, 2))
    if (status == brenier_ok) status = fitting(log_density, size(x, 2))
    call strides32(x, first, ps, cs)
    if (status == brenier_ok) status = c_flow_set_cloud(self%handle, size(x, 2, brenier_index), type_float, first, ps, cs, &
                                                        optional_address(log_density))
  end subroutine

  subroutine create64(self, settings, x, status, log_density)
    class(brenier_flow), intent(inout) :: self
    class(brenier_settings), intent(in) :: settings
    real(real64), intent(in) :: x(:, :)
    integer, intent(out) :: status
    real(real64), intent(in), optional, contiguous :: log_density(:)
    type(c_ptr) :: first, made
    integer(brenier_index) :: ps, cs
    call strides64(x, first, ps, cs)
    made = c_null_ptr
    status = fitting(log_density, size(x, 2))
    if (status == brenier_ok) status = c_flow_create(made, settings%handle, size(x, 2, brenier_index), size(x, 1, c_int), &
                                                     type_double, first, ps, cs, optional_address(log_density))
    if (status /= brenier_ok) return
    call self%destroy()
    self%handle = made
  end subroutine

  subroutine get64(self, x, status, log_density)
    class(brenier_flow), intent(in) :: self
    real(real64), intent(inout) :: x(:, :)
    integer, intent(out) :: status
    real(real64), intent(inout), optional, contiguous :: log_density(:)
    type(c_ptr) :: first
    integer(brenier_index) :: ps, cs
    status = shaped('x', shape(x), self%dim(), int(self%particles()))
    if (status == brenier_ok) status = fitting(log_density, size(x, 2))
    call strides64(x, first, ps, cs)
    if (status == brenier_ok) status = c_flow_get_cloud(self%handle, type_double, first, ps, cs, optional_address(log_density))
  end subroutine

  subroutine set64(self, x, status, log_density)
    class(brenier_flow), intent(inout) :: self
    real(real64), intent(in) :: x(:, :)
    integer, intent(out) :: status
    real(real64), intent(in), optional, contiguous :: log_density(:)
    type(c_ptr) :: first
    integer(brenier_index) :: ps, cs
    status = shaped('x', shape(x), self%dim(), size(x, 2))
    if (status == brenier_ok) status = fitting(log_density, size(x, 2))
    call strides64(x, first, ps, cs)
    if (status == brenier_ok) status = c_flow_set_cloud(self%handle, size(x, 2, brenier_index), type_double, first, ps, cs, &
                                                        optional_address(log_density))
  end subroutine

  !> Whether there is one number for each particle, or none at all.
  integer function fitting(values, n)
    real(real64), intent(in), optional :: values(:)
    integer, intent(in) :: n
    character(100) :: text
    fitting = brenier_ok
    if (.not. present(values)) return
    if (size(values) == n) return
    write (text, '(a, i0, a, i0, a)') 'log_density has ', size(values), ' values; x has ', n, ' particles'
    fitting = c_fail(int(brenier_shape_error, c_int), c_text(text))
  end function

  !> Whether an array has that shape.
  integer function shaped(name, found, d, n)
    character(*), intent(in) :: name
    integer, intent(in) :: found(2), d, n
    character(100) :: text
    shaped = brenier_ok
    if (all(found == [d, n])) return
    write (text, '(2a, 2(i0, a), 2(i0, a))') name, ' is (', found(1), ', ', found(2), '); it must be (', d, ', ', n, ')'
    shaped = c_fail(int(brenier_shape_error, c_int), c_text(text))
  end function

  subroutine flow_set_functional(self, settings, status)
    class(brenier_flow), intent(inout) :: self
    class(brenier_settings), intent(in) :: settings
    integer, intent(out) :: status
    status = c_flow_set_functional(self%handle, settings%handle)
  end subroutine

  subroutine flow_step(self, status)
    class(brenier_flow), intent(inout) :: self
    integer, intent(out) :: status
    status = c_flow_step(self%handle)
  end subroutine

  subroutine flow_run(self, time, status)
    class(brenier_flow), intent(inout) :: self
    real(real64), intent(in) :: time
    integer, intent(out) :: status
    status = c_flow_run(self%handle, time, c_null_funptr, c_null_ptr)
  end subroutine

  subroutine flow_value(self, name, number, status)
    class(brenier_flow), intent(in) :: self
    character(*), intent(in) :: name
    real(real64), intent(inout) :: number
    integer, intent(out) :: status
    status = c_flow_value(self%handle, c_text(name), number)
  end subroutine

  function flow_report(self) result(text)
    class(brenier_flow), intent(in) :: self
    character(:), allocatable :: text
    text = text_of(c_flow_report(self%handle))
  end function

  integer function flow_dim(self)
    class(brenier_flow), intent(in) :: self
    flow_dim = c_flow_dim(self%handle)
  end function

  integer(brenier_index) function flow_particles(self)
    class(brenier_flow), intent(in) :: self
    flow_particles = c_flow_particles(self%handle)
  end function

  integer function flow_steps(self)
    class(brenier_flow), intent(in) :: self
    flow_steps = c_flow_steps(self%handle)
  end function

  real(real64) function flow_time(self)
    class(brenier_flow), intent(in) :: self
    flow_time = c_flow_time(self%handle)
  end function

  subroutine flow_save(self, path, status)
    class(brenier_flow), intent(in) :: self
    character(*), intent(in) :: path
    integer, intent(out) :: status
    status = c_flow_save_file(self%handle, c_text(path))
  end subroutine

  subroutine flow_load(self, path, status)
    class(brenier_flow), intent(inout) :: self
    character(*), intent(in) :: path
    integer, intent(out) :: status
    status = c_flow_load_file(self%handle, c_text(path))
  end subroutine

  subroutine flow_destroy(self)
    class(brenier_flow), intent(inout) :: self
    call c_flow_destroy(self%handle)
    self%handle = c_null_ptr
  end subroutine

  ! --- maps --------------------------------------------------------------------------------------------------------

  subroutine maps_of_flow(self, flow, status)
    class(brenier_maps), intent(inout) :: self
    class(brenier_flow), intent(in) :: flow
    integer, intent(out) :: status
    type(c_ptr) :: made
    made = c_null_ptr
    status = c_maps_of_flow(made, flow%handle)
    if (status /= brenier_ok) return
    call self%destroy()
    self%handle = made
  end subroutine

  subroutine maps_push(self, x, y, status)
    class(brenier_maps), intent(in) :: self
    real(real64), intent(in) :: x(:, :)
    real(real64), intent(inout) :: y(:, :)
    integer, intent(out) :: status
    type(c_ptr) :: from, to
    integer(brenier_index) :: xps, xcs, yps, ycs
    call strides64(x, from, xps, xcs)
    call strides64(y, to, yps, ycs)
    status = shaped('x', shape(x), c_maps_dim(self%handle), size(x, 2))
    if (status == brenier_ok) status = shaped('y', shape(y), size(x, 1), size(x, 2))
    if (status /= brenier_ok) return
    status = c_maps_push(self%handle, size(x, 2, brenier_index), type_double, from, xps, xcs, to, yps, ycs)
  end subroutine

  subroutine maps_pull(self, y, x, status)
    class(brenier_maps), intent(in) :: self
    real(real64), intent(in) :: y(:, :)
    real(real64), intent(inout) :: x(:, :)
    integer, intent(out) :: status
    type(c_ptr) :: from, to
    integer(brenier_index) :: xps, xcs, yps, ycs
    call strides64(y, from, yps, ycs)
    call strides64(x, to, xps, xcs)
    status = shaped('y', shape(y), c_maps_dim(self%handle), size(y, 2))
    if (status == brenier_ok) status = shaped('x', shape(x), size(y, 1), size(y, 2))
    if (status /= brenier_ok) return
    status = c_maps_pull(self%handle, size(y, 2, brenier_index), type_double, from, yps, ycs, to, xps, xcs)
  end subroutine

  subroutine maps_log_density(self, y, log_density, status)
    class(brenier_maps), intent(in) :: self
    real(real64), intent(in) :: y(:, :)
    real(real64), intent(inout), contiguous :: log_density(:)
    integer, intent(out) :: status
    type(c_ptr) :: from
    integer(brenier_index) :: ps, cs
    call strides64(y, from, ps, cs)
    status = shaped('y', shape(y), c_maps_dim(self%handle), size(y, 2))
    if (status == brenier_ok) status = fitting(log_density, size(y, 2))
    if (status /= brenier_ok) return
    status = c_maps_log_density(self%handle, size(y, 2, brenier_index), type_double, from, ps, cs, log_density)
  end subroutine

  subroutine maps_sample(self, seed, x, status, log_density)
    class(brenier_maps), intent(in) :: self
    integer, intent(in) :: seed
    real(real64), intent(inout) :: x(:, :)
    integer, intent(out) :: status
    real(real64), intent(inout), optional, contiguous :: log_density(:)
    type(c_ptr) :: to
    integer(brenier_index) :: ps, cs
    call strides64(x, to, ps, cs)
    status = shaped('x', shape(x), c_maps_dim(self%handle), size(x, 2))
    if (status == brenier_ok) status = fitting(log_density, size(x, 2))
    if (status == brenier_ok) status = c_maps_sample(self%handle, size(x, 2, brenier_index), int(seed, c_long_long), &
                                                     type_double, to, ps, cs, optional_address(log_density))
  end subroutine

  subroutine maps_save(self, path, status)
    class(brenier_maps), intent(in) :: self
    character(*), intent(in) :: path
    integer, intent(out) :: status
    status = c_maps_save_file(self%handle, c_text(path))
  end subroutine

  subroutine maps_load(self, path, status, settings)
    class(brenier_maps), intent(inout) :: self
    character(*), intent(in) :: path
    integer, intent(out) :: status
    class(brenier_settings), intent(in), optional :: settings
    type(c_ptr) :: law, made
    law = c_null_ptr
    made = c_null_ptr
    if (present(settings)) law = settings%handle
    status = c_maps_load_file(made, c_text(path), law)
    if (status /= brenier_ok) return
    call self%destroy()
    self%handle = made
  end subroutine

  subroutine maps_destroy(self)
    class(brenier_maps), intent(inout) :: self
    call c_maps_destroy(self%handle)
    self%handle = c_null_ptr
  end subroutine

end module
