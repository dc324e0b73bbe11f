//! CPU or GPU: finding libtorch's CUDA half, and which device a slot trains on.

use std::{fs, path::PathBuf, process::Command};

use clap::ValueEnum;
use tch::{Cuda, Device, TchError, Tensor, kind::Element};

use crate::cpu::Precision;

/// GPU memory for a slot, with its share of the features and of libtorch's own.
const SLOT_MIB: u64 = 10_240;
/// More threads than these only wait for each other.
const GPU_SLOTS_MAX: usize = 4;
/// GPU memory for a run: its activations, the largest part, are tens of MiB for the reference model in batches of 32, hundreds
/// for the largest variants. Where that is too little, a slot trains half of its runs after the other half.
const RUN_MIB: u64 = 1_024;
/// By then a GPU is busy, and members that end early leave others waiting for the slowest.
const FUSE_DEFAULT_MAX: usize = 16;

const CUDA_LIBRARY: &str = "libtorch_cuda.so";
const CPU_LIBRARY: &str = "libtorch_cpu.so";

/// What `--device` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// CUDA when a usable GPU is there, otherwise the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
}

/// Why the chosen device cannot be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeviceError {
    /// CUDA was asked for and is not there.
    #[error(
        "--device cuda: libtorch sees no usable GPU; check the driver with nvidia-smi, and that libtorch_cuda.so lies beside \
         libtorch_cpu.so (make setup GPU=1)"
    )]
    NoCuda,
}

/// What a slot trains on.
#[derive(Debug, Clone, Copy)]
pub enum Processor {
    /// A core, with kernels of our own.
    Cpu(Precision),
    /// The GPU of this number, with libtorch's.
    Gpu(usize),
}

impl Processor {
    /// As libtorch names it.
    pub fn device(self) -> Device {
        match self {
            Self::Cpu(_) => Device::Cpu,
            Self::Gpu(gpu) => Device::Cuda(gpu),
        }
    }
}

/// The devices of a worker: what its slots train on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// The CPU, with this many cores for this process.
    Cpu {
        /// Cores.
        cores: usize,
    },
    /// NVIDIA GPUs.
    Cuda {
        /// How many, at least one.
        gpus: usize,
        /// Free memory of the one that has the least, in MiB, if the driver's tool says so.
        memory_mib: Option<u64>,
    },
}

impl Devices {
    /// Looks at what is there. [`load_cuda`] must have run before.
    ///
    /// # Errors
    /// [`DeviceError::NoCuda`] when CUDA was asked for by name and is not there.
    pub fn choose(choice: DeviceChoice) -> Result<Self, DeviceError> {
        let gpus = if choice != DeviceChoice::Cpu && Cuda::is_available() {
            usize::try_from(Cuda::device_count()).unwrap_or(0)
        } else {
            0
        };
        match (choice, gpus) {
            (DeviceChoice::Cuda, 0) => Err(DeviceError::NoCuda),
            (_, 0) => Ok(Self::Cpu { cores: std::thread::available_parallelism().map_or(1, usize::from) }),
            (_, gpus) => Ok(Self::Cuda { gpus, memory_mib: free_memory_mib() }),
        }
    }

    /// Slots when the user names no number: one per core; per GPU one to four, by its memory. A slot's thread starts the GPU's
    /// operations, and with small networks that takes longer than the operations themselves.
    pub fn slots_default(self) -> usize {
        match self {
            Self::Cpu { cores } => cores,
            Self::Cuda { gpus, memory_mib } => gpus * of_memory(memory_mib, SLOT_MIB, GPU_SLOTS_MAX),
        }
    }

    /// Runs that a slot trains as one computation when the user names no number: one on a CPU, whose own kernels are several
    /// times as fast as libtorch's; on a GPU up to sixteen, by its memory.
    pub fn fuse_default(self, slots: usize) -> usize {
        match self {
            Self::Cpu { .. } => 1,
            Self::Cuda { gpus, memory_mib } => {
                let slots_of_one = slots.div_ceil(gpus.max(1)).max(1) as u64;
                of_memory(memory_mib.map(|mib| mib / slots_of_one), RUN_MIB, FUSE_DEFAULT_MAX)
            }
        }
    }

    /// What one slot trains on; slots take turns on the GPUs. The precision is that of CPUs.
    pub fn of_slot(self, slot: usize, precision: Precision) -> Processor {
        match self {
            Self::Cpu { .. } => Processor::Cpu(precision),
            Self::Cuda { gpus, .. } => Processor::Gpu(slot % gpus.max(1)),
        }
    }

    /// As the protocol says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu { .. } => "cpu",
            Self::Cuda { .. } => "cuda",
        }
    }
}

/// As many as a memory holds of this size, from one to `most`.
fn of_memory(memory_mib: Option<u64>, each_mib: u64, most: usize) -> usize {
    usize::try_from(memory_mib.unwrap_or(0) / each_mib).unwrap_or(most).clamp(1, most)
}

/// Free memory of the GPU that has the least, by the tool that comes with every NVIDIA driver.
fn free_memory_mib() -> Option<u64> {
    let query = ["--query-gpu=memory.free", "--format=csv,noheader,nounits"];
    let answer = Command::new("nvidia-smi").args(query).output().ok()?;
    least_of(&String::from_utf8_lossy(&answer.stdout))
}

/// The least of numbers on lines; none without any.
fn least_of(lines: &str) -> Option<u64> {
    lines.lines().filter_map(|line| line.trim().parse().ok()).min()
}

/// Copies values to a device, as a tensor of one dimension. A GPU is not waited for: the copy is made from pinned memory, in its
/// turn among what the GPU has to do.
///
/// # Errors
/// libtorch refuses.
pub fn upload<T: Element>(values: &[T], device: Device) -> Result<Tensor, TchError> {
    let tensor = Tensor::f_from_slice(values)?;
    if device == Device::Cpu || values.is_empty() {
        return tensor.f_to_device(device);
    }
    let pinned = tensor.f_pin_memory(device)?;
    pinned.f_to_device_(device, T::KIND, true, false)
}

/// What became of libtorch's CUDA half.
#[derive(Debug)]
pub enum CudaLibrary {
    /// There is none beside libtorch's CPU half.
    Absent,
    /// It was loaded from here.
    Loaded(PathBuf),
    /// It is there and does not load.
    Refused(PathBuf, libloading::Error),
}

/// Loads libtorch's CUDA half when it lies beside the CPU half, so that one binary serves both kinds of machine: the binary
/// is linked with the CPU half only, and libtorch finds CUDA once the library has registered itself. Call it before anything
/// asks libtorch about CUDA.
pub fn load_cuda() -> CudaLibrary {
    let Some(path) =
        cpu_library().map(|path| path.with_file_name(CUDA_LIBRARY)).filter(|path| path.is_file())
    else {
        return CudaLibrary::Absent;
    };
    // SAFETY: the library's initialisers are libtorch's own, of the build whose CPU half this process runs already; linking
    // with it would run the same code before `main`.
    #[allow(unsafe_code)] // loading any library runs its initialisers
    let library = unsafe { libloading::Library::new(&path) };
    match library {
        Ok(library) => {
            // libtorch keeps pointers into it: it must never be unloaded.
            std::mem::forget(library);
            CudaLibrary::Loaded(path)
        }
        Err(error) => CudaLibrary::Refused(path, error),
    }
}

/// The file that libtorch's CPU half was loaded from, as the kernel lists it.
fn cpu_library() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines()
        .filter_map(|line| line.find('/').and_then(|start| line.get(start..)))
        .map(PathBuf::from)
        .find(|path| path.file_name().is_some_and(|name| name == CPU_LIBRARY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtorch_is_found_where_it_was_loaded_from() {
        // A call into libtorch, so that the linker keeps the dependency.
        assert!(tch::get_num_threads() > 0);
        assert!(cpu_library().is_some_and(|path| path.is_file()));
        assert!(!matches!(load_cuda(), CudaLibrary::Refused(..)));
    }

    #[test]
    fn slots_and_fused_runs_are_as_many_as_the_memory_holds() {
        let check = |memory_mib, expected: (usize, usize)| {
            let devices = Devices::Cuda { gpus: 2, memory_mib };
            let slots = devices.slots_default();
            assert_eq!((slots, devices.fuse_default(slots)), expected, "{memory_mib:?}");
        };
        check(None, (2, 1));
        check(Some(3_000), (2, 2));
        check(Some(24_000), (4, 11));
        check(Some(80_000), (8, 16));
        assert_eq!(Devices::Cpu { cores: 4 }.fuse_default(4), 1);
    }

    #[test]
    fn the_least_memory_counts() {
        assert_eq!(least_of("40000\n 8123 \n"), Some(8_123));
        assert_eq!(least_of("[N/A]\n"), None);
        assert_eq!(least_of(""), None);
    }

    #[test]
    fn slots_take_turns_on_the_gpus() {
        let devices = Devices::Cuda { gpus: 2, memory_mib: None };
        assert_eq!(devices.of_slot(3, Precision::F32).device(), Device::Cuda(1));
        assert_eq!(Devices::Cpu { cores: 4 }.of_slot(3, Precision::F32).device(), Device::Cpu);
    }
}
