//! A machine as a plain model, which writes the tables that describe it.

use super::{Tables, seal};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) apic: u32,
    /// `None`: the SRAT does not have it.
    pub(crate) proximity: Option<u32>,
    pub(crate) enabled: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) proximity: u32,
    pub(crate) base: u64,
    pub(crate) bytes: u64,
    /// 1 enabled, 2 hot-pluggable, 4 non-volatile.
    pub(crate) flags: u32,
}

/// A latency/bandwidth matrix, a row per initiator.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    pub(crate) hierarchy: u8,
    pub(crate) data_type: u8,
    pub(crate) base_unit: u64,
    pub(crate) initiators: Vec<u32>,
    pub(crate) targets: Vec<u32>,
    pub(crate) entries: Vec<u16>,
}

#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) memory: Vec<Memory>,
    pub(crate) initiators: Vec<u32>,
    /// The domains of generic ports.
    pub(crate) ports: Vec<u32>,
    /// Row by row.
    pub(crate) distances: Option<Vec<Vec<u8>>>,
    pub(crate) hmat_revision: u8,
    pub(crate) matrices: Vec<Matrix>,
    /// Domain, bytes, attributes.
    pub(crate) caches: Vec<(u32, u64, u32)>,
    /// Base and bytes.
    pub(crate) windows: Vec<(u64, u64)>,
    /// The host bridges that the CEDT names if there are windows.
    pub(crate) bridges: usize,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine {
            cpus: Vec::new(),
            memory: Vec::new(),
            initiators: Vec::new(),
            ports: Vec::new(),
            distances: None,
            hmat_revision: 2,
            matrices: Vec::new(),
            caches: Vec::new(),
            windows: Vec::new(),
            bridges: 1,
        }
    }
}

/// Bytes of a table in the making.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn table(signature: &[u8; 4], revision: u8) -> Writer {
        let mut bytes = vec![0; 36];
        bytes[..4].copy_from_slice(signature);
        bytes[8] = revision;
        bytes[10..16].copy_from_slice(b"MODEL ");
        Writer(bytes)
    }

    pub(crate) fn put<const N: usize>(&mut self, bytes: [u8; N]) -> &mut Writer {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn zeros(&mut self, count: usize) -> &mut Writer {
        self.0.extend(std::iter::repeat_n(0, count));
        self
    }

    pub(crate) fn sealed(mut self) -> Vec<u8> {
        seal(&mut self.0);
        self.0
    }
}

impl Machine {
    pub(crate) fn tables(&self) -> Tables {
        Tables {
            madt: Some(self.madt()),
            srat: Some(self.srat()),
            slit: self.distances.as_ref().map(|rows| slit(rows)),
            hmat: (!self.matrices.is_empty() || !self.caches.is_empty()).then(|| self.hmat()),
            cedt: (!self.windows.is_empty()).then(|| self.cedt()),
            root_checksum: 0,
        }
    }

    fn madt(&self) -> Vec<u8> {
        let mut table = Writer::table(b"APIC", 5);
        table.put(0xfee0_0000u32.to_le_bytes()).put(1u32.to_le_bytes());
        // An I/O APIC between them: a structure of no concern.
        table.put([1, 12]).zeros(10);
        for (uid, cpu) in self.cpus.iter().enumerate() {
            let flags = u32::from(cpu.enabled);
            if cpu.apic < 255 {
                table.put([0, 8, uid as u8, cpu.apic as u8]).put(flags.to_le_bytes());
            } else {
                table.put([9, 16, 0, 0]).put(cpu.apic.to_le_bytes()).put(flags.to_le_bytes());
                table.put((uid as u32).to_le_bytes());
            }
        }
        table.sealed()
    }

    fn srat(&self) -> Vec<u8> {
        let mut table = Writer::table(b"SRAT", 3);
        table.put(1u32.to_le_bytes()).zeros(8);
        for cpu in &self.cpus {
            let Some(proximity) = cpu.proximity else { continue };
            let [low, high @ ..] = proximity.to_le_bytes();
            if cpu.apic < 255 {
                table.put([0, 16, low, cpu.apic as u8]).put(1u32.to_le_bytes());
                table.put([0xee]).put(high).zeros(4);
            } else {
                table.put([2, 24, 0, 0]).put(proximity.to_le_bytes()).put(cpu.apic.to_le_bytes());
                table.put(1u32.to_le_bytes()).zeros(8);
            }
        }
        for memory in &self.memory {
            table.put([1, 40]).put(memory.proximity.to_le_bytes()).zeros(2);
            table.put(memory.base.to_le_bytes()).put(memory.bytes.to_le_bytes()).zeros(4);
            table.put(memory.flags.to_le_bytes()).zeros(8);
        }
        for proximity in &self.initiators {
            table.put([5, 32, 0, 1]).put(proximity.to_le_bytes()).zeros(16);
            table.put(1u32.to_le_bytes()).zeros(4);
        }
        for proximity in &self.ports {
            table.put([6, 32, 0, 0]).put(proximity.to_le_bytes()).zeros(16);
            table.put(1u32.to_le_bytes()).zeros(4);
        }
        table.sealed()
    }

    fn hmat(&self) -> Vec<u8> {
        let mut table = Writer::table(b"HMAT", self.hmat_revision);
        table.zeros(4);
        for memory in &self.memory {
            table.put([0, 0, 0, 0]).put(40u32.to_le_bytes()).zeros(8);
            table.put(memory.proximity.to_le_bytes()).zeros(20);
        }
        for matrix in &self.matrices {
            let lists = 4 * (matrix.initiators.len() + matrix.targets.len());
            let length = 32 + lists + 2 * matrix.entries.len();
            table.put([1, 0, 0, 0]).put((length as u32).to_le_bytes());
            table.put([matrix.hierarchy, matrix.data_type, 0, 0]);
            table.put((matrix.initiators.len() as u32).to_le_bytes());
            table.put((matrix.targets.len() as u32).to_le_bytes());
            table.zeros(4).put(matrix.base_unit.to_le_bytes());
            for proximity in matrix.initiators.iter().chain(&matrix.targets) {
                table.put(proximity.to_le_bytes());
            }
            for entry in &matrix.entries {
                table.put(entry.to_le_bytes());
            }
        }
        for (proximity, bytes, attributes) in &self.caches {
            table.put([2, 0, 0, 0]).put(32u32.to_le_bytes()).put(proximity.to_le_bytes()).zeros(4);
            table.put(bytes.to_le_bytes()).put(attributes.to_le_bytes()).zeros(4);
        }
        table.sealed()
    }

    fn cedt(&self) -> Vec<u8> {
        let mut table = Writer::table(b"CEDT", 1);
        for _ in 0..self.bridges {
            table.put([0, 0]).put(32u16.to_le_bytes()).zeros(28);
        }
        for (base, bytes) in &self.windows {
            table.put([1, 0]).put(40u16.to_le_bytes()).zeros(4);
            table.put(base.to_le_bytes()).put(bytes.to_le_bytes()).zeros(16);
        }
        table.sealed()
    }
}

pub(crate) fn slit(rows: &[Vec<u8>]) -> Vec<u8> {
    let mut table = Writer::table(b"SLIT", 1);
    table.put((rows.len() as u64).to_le_bytes());
    rows.iter().flatten().for_each(|&distance| {
        table.put([distance]);
    });
    table.sealed()
}
