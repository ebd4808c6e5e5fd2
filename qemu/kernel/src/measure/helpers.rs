//! What the other CPUs do meanwhile: use the measured space, in one of several ways.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;

use async_task::Task;
use topomem::{CpuId, VirtAddr};
use x86_64::instructions::interrupts;

use super::MeasureError;
use super::samples::OutOfMemory;
use super::space::{Measured, leave};
use crate::arch::apic::{self, Destination, Message};
use crate::arch::{probe, vector};
use crate::executor::{sleep, spawn_on};
use crate::per_cpu;
use crate::smp::ipi;

/// What a helper does.
#[derive(Debug, Clone, Copy)]
pub enum Role {
    /// Reads the page at the address, again and again.
    Spin(VirtAddr),
    /// Halts without saying so: it is a busy member of the space that costs no instructions.
    Halt,
    /// Has the space active, and nothing to do.
    Idle,
}

#[derive(Debug)]
struct Shared {
    ready: AtomicUsize,
    stop: AtomicBool,
}

/// Helpers on all other CPUs, until they are stopped.
pub struct Helpers {
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
    pub async fn start(measured: &Measured, role: Role) -> Result<Helpers, MeasureError> {
        let shared = Arc::new(Shared { ready: AtomicUsize::new(0), stop: AtomicBool::new(false) });
        let mut tasks = Vec::new();
        tasks.try_reserve_exact(ipi::running().len()).map_err(|_| OutOfMemory)?;
        for cpu in others() {
            let (measured, shared) = (measured.clone(), shared.clone());
            tasks.push(spawn_on(cpu, move || help(measured, role, shared))?);
        }
        while shared.ready.load(Ordering::Acquire) < tasks.len() {
            // Halting, for with one host thread a busy CPU keeps the others from running.
            sleep(Duration::from_micros(100)).await;
        }
        Ok(Helpers { shared, role, tasks })
    }

    /// Ends their work; afterwards no other CPU has the space.
    ///
    /// # Errors
    ///
    /// No memory for the tasks.
    pub async fn stop(self) -> Result<(), MeasureError> {
        self.shared.stop.store(true, Ordering::Release);
        if let Role::Halt = self.role {
            apic::send(Message::Fixed(vector::MEASURE), Destination::Others);
        }
        for task in self.tasks {
            task.await;
        }
        for cpu in others() {
            spawn_on(cpu, || async { leave() })?.await;
        }
        Ok(())
    }
}

fn others() -> impl Iterator<Item = CpuId> {
    let mut others = ipi::running();
    others.remove(per_cpu::current().cpu);
    others.iter()
}

async fn help(measured: Measured, role: Role, shared: Arc<Shared>) {
    measured.activate();
    // Release pairs with the Acquire in `start`: the CPU is a member.
    shared.ready.fetch_add(1, Ordering::Release);
    match role {
        Role::Spin(page) => {
            while !shared.stop.load(Ordering::Acquire) {
                let _ = hint::black_box(probe::load(page.as_u64()));
            }
        }
        Role::Halt => {
            interrupts::disable();
            while !shared.stop.load(Ordering::Acquire) {
                interrupts::enable_and_hlt();
                interrupts::disable();
            }
            interrupts::enable();
        }
        Role::Idle => {}
    }
}
