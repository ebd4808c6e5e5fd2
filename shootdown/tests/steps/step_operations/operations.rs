//! The operations that are stopped.

use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context as TaskContext, Waker};

use topomem_shootdown::{Invalidation, Lazy, PageSize};
use topomem_stepper::{Operation, masked};

use super::{KERNEL, PENDING, SPACE, Scene, address, on, operation};

pub(super) const OPERATIONS: &[Operation<Scene>] = &[
    operation("invalidate a page", Scene::filled, |scene| scene.change(0, SPACE, 1)),
    operation("invalidate pages of the kernel", Scene::filled, |scene| scene.change(0, KERNEL, 3)),
    operation("a batch", Scene::filled, |scene| {
        let mut batch = scene.queue.batch(scene.space);
        let version = scene.entries[SPACE][0].fetch_add(1, Relaxed) + 1;
        batch.record(Invalidation::page(address(SPACE, 0), PageSize::Size4KiB));
        batch.record(Invalidation::page(address(SPACE, 2), PageSize::Size4KiB));
        let ticket = on(0, |pin| batch.issue(pin));
        masked(|| scene.tickets.lock().unwrap().push((ticket, SPACE, version)));
    }),
    operation("invalidate and wait", Scene::filled, |scene| {
        let version = scene.entries[SPACE][0].fetch_add(1, Relaxed) + 1;
        let page = Invalidation::page(address(SPACE, 0), PageSize::Size4KiB);
        on(0, |pin| scene.queue.invalidate(pin, scene.space, page).wait(pin));
        scene.floor[SPACE][0].fetch_max(version, Relaxed);
        scene.access_all(0);
    }),
    operation("on_ipi", PENDING, |scene| on(0, |pin| _ = scene.queue.on_ipi(pin))),
    operation("poll", PENDING, |scene| on(0, |pin| scene.queue.poll(pin))),
    operation("poll of nothing", Scene::filled, |scene| on(0, |pin| scene.queue.poll(pin))),
    operation(
        "activate",
        |scene| {
            scene.filled();
            scene.leave(0);
        },
        |scene| {
            scene.enter(0);
            scene.access_all(0);
        },
    ),
    Operation {
        name: "deactivate",
        prepare: Scene::filled,
        run: |scene| scene.leave(0),
        undo: |scene| {
            scene.settle();
            scene.enter(0);
        },
    },
    operation(
        "leave_lazy",
        |scene| {
            scene.filled();
            // SAFETY: the CPU touches nothing until it has left.
            on(0, |pin| unsafe { scene.queue.enter_lazy(pin, Lazy::Space) });
        },
        |scene| {
            on(0, |pin| _ = scene.queue.leave_lazy(pin));
            scene.access_all(0);
        },
    ),
    operation(
        "activate of a lazy CPU",
        |scene| {
            scene.filled();
            // SAFETY: the CPU touches nothing until it has left.
            on(0, |pin| unsafe { scene.queue.enter_lazy(pin, Lazy::Space) });
        },
        |scene| {
            scene.enter(0);
            scene.access_all(0);
        },
    ),
    Operation {
        name: "cpu_offline and cpu_online",
        prepare: |scene| {
            scene.filled();
            scene.leave(0);
        },
        run: |scene| {
            // SAFETY: the CPU uses nothing until it is online again.
            on(0, |pin| unsafe { scene.queue.cpu_offline(pin) }).unwrap();
            on(0, |pin| scene.queue.cpu_online(pin)).unwrap();
            scene.access_all(0);
        },
        undo: |scene| {
            scene.settle();
            scene.enter(0);
        },
    },
    operation(
        "first poll of a completion",
        |scene| {
            scene.filled();
            let page = Invalidation::page(address(SPACE, 3), PageSize::Size4KiB);
            let ticket = on(0, |pin| scene.queue.invalidate(pin, scene.space, page));
            *scene.future.lock().unwrap() = Some(Box::pin(ticket.into_future()));
        },
        |scene| {
            let waker = masked(|| Waker::from(scene.count.clone()));
            let mut future = masked(|| scene.future.lock().unwrap().take()).unwrap();
            _ = future.as_mut().poll(&mut TaskContext::from_waker(&waker));
            masked(|| *scene.future.lock().unwrap() = Some(future));
            masked(|| drop(waker));
        },
    ),
    operation("wake_completed", PENDING, |scene| _ = on(0, |pin| scene.queue.wake_completed(pin))),
];
