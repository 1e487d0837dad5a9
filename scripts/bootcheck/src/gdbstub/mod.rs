//! QEMU's gdb stub: what only it tells, and single steps.
//!
//! The monitor knows no system register but a few; the stub has them all, ESR, FAR and ELR of
//! every exception level among them. This is the part of gdb's remote serial protocol that is
//! needed for that: a packet is `$data#checksum`, answered by another one.

mod description;
mod packet;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use description::{attribute, attributes, full_name};
use packet::{checksum, hex_bytes, hex_number, little_endian, nonsense, unescape, unframe};

/// How long QEMU may take to answer. It takes a fraction of a millisecond; a CPU that sleeps in a
/// WFI never ends its step.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes per memory packet: QEMU takes packets of 4 KiB, in hexadecimal digits.
const PIECE: usize = 2000;

/// A connection to the stub of a QEMU whose guest stands still.
#[derive(Debug)]
pub struct GdbStub {
    socket: UnixStream,
    input: Vec<u8>,
    numbers: HashMap<String, u32>,
    is_physical: bool,
}

/// Registers by name: `x0`…`x30`, `sp`, `pc`, `cpsr`, and the system registers as `ESR_EL1`.
pub type Registers = BTreeMap<String, u64>;

/// The general registers, as the stub numbers them.
const GENERAL: usize = 34;

/// The system registers that a post-mortem tells of, where the CPU has them.
const SYSTEM: [&str; 12] = [
    "ESR", "FAR", "ELR", "SPSR", "VBAR", "TTBR0", "TTBR1", "TCR", "SCTLR", "HCR", "SCR", "TPIDRRO",
];

impl GdbStub {
    /// Takes up the conversation on a socket whose other end the stub holds.
    ///
    /// # Errors
    /// What went wrong with the socket or the answer.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut stub = Self {
            socket,
            input: Vec::new(),
            numbers: HashMap::new(),
            is_physical: false,
        };
        // Asking for the list of registers is what makes the stub offer the system registers.
        stub.exchange("qSupported:xmlRegisters=aarch64")?;
        stub.exchange("?")?;
        Ok(stub)
    }

    /// Forgets what the stub has said unasked: that the guest stopped, when the monitor stopped it.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn catch_up(&mut self) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        let mut buffer = [0; 4096];
        let result = loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {
                    // Unacknowledged, it would be said again.
                    self.socket.write_all(b"+")?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.input.clear();
        self.socket.set_nonblocking(false)?;
        result
    }

    /// The CPUs, by the stub's numbers for them.
    ///
    /// # Errors
    /// No answer, or none that makes sense.
    pub fn cpus(&mut self) -> io::Result<Vec<u32>> {
        let mut list = Vec::new();
        let mut answer = self.exchange("qfThreadInfo")?;
        while let Some(numbers) = answer.strip_prefix(b"m") {
            for number in numbers.split(|byte| *byte == b',') {
                list.push(hex_number(number)? as u32);
            }
            answer = self.exchange("qsThreadInfo")?;
        }
        Ok(list)
    }

    /// From now on, registers are those of this CPU.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub fn select(&mut self, cpu: u32) -> io::Result<()> {
        self.expect_ok(&format!("Hg{cpu:x}"))
    }

    /// x0 to x30, SP, PC and PSTATE, in this order.
    ///
    /// # Errors
    /// No answer, or none that makes sense.
    pub fn general(&mut self) -> io::Result<[u64; GENERAL]> {
        let answer = self.exchange("g")?;
        let bytes = hex_bytes(&answer)?;
        let mut registers = [0; GENERAL];
        // All but the last are 64 bits wide.
        for (register, value) in registers.iter_mut().zip(bytes.chunks(8)) {
            *register = little_endian(value);
        }
        registers[GENERAL - 1] &= 0xffff_ffff;
        Ok(registers)
    }

    /// One register by the name in [`Registers`]; `None` if this CPU has none of that name.
    ///
    /// # Errors
    /// No answer, or none that makes sense.
    pub fn register(&mut self, name: &str) -> io::Result<Option<u64>> {
        if self.numbers.is_empty() {
            self.numbers = self.read_names()?;
        }
        let Some(number) = self.numbers.get(name) else {
            return Ok(None);
        };
        let answer = self.exchange(&format!("p{number:x}"))?;
        Ok(Some(little_endian(&hex_bytes(&answer)?)))
    }

    /// All that a post-mortem wants to know.
    ///
    /// # Errors
    /// No answer, or none that makes sense.
    pub fn registers(&mut self) -> io::Result<Registers> {
        let general = self.general()?;
        let names = (0..31)
            .map(|number| format!("x{number}"))
            .chain(["sp", "pc", "cpsr"].map(str::to_owned));
        let mut registers: Registers = names.zip(general).collect();
        for name in SYSTEM {
            for level in 0..=3 {
                let name = format!("{name}_EL{level}");
                if let Some(value) = self.register(&name)? {
                    registers.insert(name, value);
                }
            }
        }
        Ok(registers)
    }

    /// Reads memory at a physical address.
    ///
    /// # Errors
    /// No answer, or nothing is there.
    pub fn read_physical(&mut self, address: u64, length: usize) -> io::Result<Vec<u8>> {
        self.physical(true)?;
        self.read(address, length)
    }

    /// Reads memory at a virtual address, as the selected CPU sees it.
    ///
    /// # Errors
    /// No answer, or nothing is mapped there.
    pub fn read_virtual(&mut self, address: u64, length: usize) -> io::Result<Vec<u8>> {
        self.physical(false)?;
        self.read(address, length)
    }

    /// Writes memory at a physical address.
    ///
    /// # Errors
    /// No answer, or nothing is there.
    pub fn write_physical(&mut self, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.physical(true)?;
        for (index, piece) in bytes.chunks(PIECE).enumerate() {
            let digits: String = piece.iter().map(|byte| format!("{byte:02x}")).collect();
            let address = address + (index * PIECE) as u64;
            self.expect_ok(&format!("M{address:x},{:x}:{digits}", piece.len()))?;
        }
        Ok(())
    }

    /// Has one CPU execute one instruction, with interrupts and timers held back.
    ///
    /// # Errors
    /// No answer: the instruction was a WFI, or the guest ended by it.
    pub fn step(&mut self, cpu: u32) -> io::Result<()> {
        let answer = self.exchange(&format!("vCont;s:{cpu:x}"))?;
        match answer.first() {
            Some(b'T' | b'S') => Ok(()),
            _ => Err(nonsense(&answer)),
        }
    }

    fn read(&mut self, address: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let wanted = (length - bytes.len()).min(PIECE);
            let address = address.wrapping_add(bytes.len() as u64);
            let answer = self.exchange(&format!("m{address:x},{wanted:x}"))?;
            let piece = hex_bytes(&answer)?;
            if piece.is_empty() {
                return Err(nonsense(&answer));
            }
            bytes.extend(piece);
        }
        Ok(bytes)
    }

    fn physical(&mut self, is_physical: bool) -> io::Result<()> {
        if self.is_physical != is_physical {
            self.expect_ok(&format!("Qqemu.PhyMemMode:{}", u8::from(is_physical)))?;
            self.is_physical = is_physical;
        }
        Ok(())
    }

    /// The numbers of all registers, from the descriptions that the stub hands out.
    fn read_names(&mut self) -> io::Result<HashMap<String, u32>> {
        let target = self.description("target.xml")?;
        let mut names = HashMap::new();
        let mut next = 0;
        for file in attributes(&target, b"xi:include", |element| attribute(element, "href"))? {
            let text = self.description(&file)?;
            for (name, number) in attributes(&text, b"reg", |element| {
                let number = attribute(element, "regnum").and_then(|text| text.parse().ok());
                Some((attribute(element, "name")?, number))
            })? {
                let number = number.unwrap_or(next);
                next = number + 1;
                names.insert(full_name(&name), number);
            }
        }
        Ok(names)
    }

    fn description(&mut self, file: &str) -> io::Result<String> {
        let mut text = Vec::new();
        loop {
            let offset = text.len();
            let answer = self.exchange(&format!("qXfer:features:read:{file}:{offset:x},ff0"))?;
            match answer.split_first() {
                Some((b'm', piece)) if !piece.is_empty() => text.extend(unescape(piece)),
                Some((b'l', piece)) => {
                    text.extend(unescape(piece));
                    return String::from_utf8(text).map_err(|_| nonsense(&answer));
                }
                _ => return Err(nonsense(&answer)),
            }
        }
    }

    fn expect_ok(&mut self, packet: &str) -> io::Result<()> {
        match self.exchange(packet)?.as_slice() {
            b"OK" => Ok(()),
            answer => Err(nonsense(answer)),
        }
    }

    /// Sends a packet; the answer.
    fn exchange(&mut self, packet: &str) -> io::Result<Vec<u8>> {
        let framed = format!("${packet}#{:02x}", checksum(packet.as_bytes()));
        self.socket.write_all(framed.as_bytes())?;
        let mut buffer = [0; 8192];
        loop {
            if let Some((data, length)) = unframe(&self.input) {
                self.input.drain(..length);
                // If the stub is gone by now, the next packet will tell.
                let _ = self.socket.write_all(b"+");
                return Ok(data);
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.input.extend_from_slice(&buffer[..length]),
                // This process was stopped and goes on: a read with a time limit ends by that.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests;
