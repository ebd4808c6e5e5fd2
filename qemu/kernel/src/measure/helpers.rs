//! What the other CPUs do meanwhile: use the measured space, idle in it, or be away.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;

use async_task::Task;
use topomem::CpuSet;
use x86_64::instructions::interrupts;

use super::MeasureError;
use super::orders::Orders;
use super::samples::OutOfMemory;
use super::space::{Measured, apart, leave};
use crate::arch::interrupt::apic;
use crate::arch::interrupt::vector;
use crate::arch::probe;
use crate::executor::{sleep, spawn_on};
use crate::memory::platform::pin;
use crate::memory::service::SERVICE;
use crate::per_cpu;
use crate::scenario::failure;
use crate::smp::ipi;
use topomem_boot::{Destination, Message};

/// What a helper does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    /// Reads pages when told to, and spins in the space.
    Follow,
    /// Halts without saying so: it is a busy member of the space that costs no instructions.
    Halt,
    /// Is offline in the memory service, and halts.
    Away,
}

#[derive(Debug)]
struct Shared {
    orders: Orders,
    ready: AtomicUsize,
    stop: AtomicBool,
}

/// Helpers on all other CPUs, until they are stopped.
pub(super) struct Helpers {
    shared: Arc<Shared>,
    role: Role,
    tasks: Vec<Task<()>>,
}

impl Helpers {
    /// Starts one on each other CPU; they are at work when this returns.
    ///
    /// # Errors
    ///
    /// No memory for the tasks.
    pub(super) async fn start(measured: &Measured, role: Role) -> Result<Helpers, MeasureError> {
        let shared =
            Shared { orders: Orders::new(), ready: AtomicUsize::new(0), stop: AtomicBool::new(false) };
        let shared = Arc::new(shared);
        let mut tasks = Vec::new();
        tasks.try_reserve_exact(ipi::running().len()).map_err(|_| OutOfMemory)?;
        for cpu in others().iter() {
            let (measured, shared) = (measured.clone(), shared.clone());
            tasks.push(spawn_on(cpu, move || async move { help(&measured, role, &shared) })?);
        }
        while shared.ready.load(Ordering::Acquire) < tasks.len() {
            // Halting, for with one host thread a busy CPU keeps the others from running.
            sleep(Duration::from_micros(100)).await;
        }
        Ok(Helpers { shared, role, tasks })
    }

    /// Has each helper that follows read the first `count` pages, and returns when all have.
    pub(super) fn read(&self, count: u64) {
        self.shared.orders.read(count, self.tasks.len());
    }

    /// Ends their work; afterwards no other CPU has the space.
    ///
    /// # Errors
    ///
    /// No memory for the tasks.
    pub(super) async fn stop(self) -> Result<(), MeasureError> {
        self.shared.stop.store(true, Ordering::Release);
        match self.role {
            Role::Follow => self.shared.orders.end(),
            Role::Halt | Role::Away => apic::send(Message::Fixed(vector::MEASURE.0), Destination::Others),
        }
        for task in self.tasks {
            task.await;
        }
        Ok(())
    }
}

/// Has each other CPU take up the space, read the first `count` pages, and go idle in it.
///
/// # Errors
///
/// No memory for the tasks.
pub(super) async fn idle_after_reading(measured: &Measured, count: u64) -> Result<(), MeasureError> {
    for cpu in others().iter() {
        let measured = measured.clone();
        let visit = move || async move {
            measured.activate();
            for number in 0..count {
                let _ = hint::black_box(probe::load(apart(number).start().as_u64()));
            }
        };
        spawn_on(cpu, visit)?.await;
    }
    Ok(())
}

/// Has each other CPU leave the space.
///
/// # Errors
///
/// No memory for the tasks.
pub(super) async fn all_leave() -> Result<(), MeasureError> {
    for cpu in others().iter() {
        spawn_on(cpu, || async { leave() })?.await;
    }
    Ok(())
}

fn others() -> CpuSet {
    let mut others = ipi::running();
    others.remove(per_cpu::current().cpu);
    others
}

fn help(measured: &Measured, role: Role, shared: &Shared) {
    match role {
        Role::Follow => {
            measured.activate();
            shared.be_ready();
            shared.orders.follow();
            leave();
        }
        Role::Halt => {
            measured.activate();
            shared.be_ready();
            shared.halt();
            leave();
        }
        Role::Away => {
            leave();
            be_away(shared);
        }
    }
}

fn be_away(shared: &Shared) {
    // SAFETY: until it is online again this CPU halts, and calls wakers, which are in the direct
    // map like all that the heap holds.
    if let Err(error) = unsafe { SERVICE.cpu_offline(&pin()) } {
        failure(format_args!("{error}"), "measurement");
        return shared.be_ready();
    }
    SERVICE.wake_due(&pin());
    shared.be_ready();
    shared.halt();
    // SAFETY: the kernel's tables are active, interrupts are on, and nobody else brings it up.
    if let Err(error) = unsafe { SERVICE.cpu_online(&pin()) } {
        failure(format_args!("{error}"), "measurement");
    }
}

impl Shared {
    fn be_ready(&self) {
        // Release pairs with the Acquire in `start`: the CPU is a member, or away.
        self.ready.fetch_add(1, Ordering::Release);
    }

    /// Halts until the end.
    fn halt(&self) {
        interrupts::disable();
        while !self.stop.load(Ordering::Acquire) {
            interrupts::enable_and_hlt();
            interrupts::disable();
        }
        interrupts::enable();
    }
}
