//! QEMU's gdb stub: what only it tells, and single steps.
//!
//! The monitor knows no system register but a few; the stub has them all, ESR, FAR and ELR of
//! every exception level among them. This is the part of gdb's remote serial protocol that is
//! needed for that: a packet is `$data#checksum`, answered by another one.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

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
            match self.socket.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => self.input.extend_from_slice(&buffer[..length]),
            }
        }
    }
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The first packet in `input`, and where the next one begins. Acknowledgements are passed over.
fn unframe(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let start = memchr::memchr(b'$', input)? + 1;
    let length = memchr::memchr(b'#', &input[start..])?;
    let end = start + length + 3;
    (input.len() >= end).then(|| (input[start..start + length].to_vec(), end))
}

/// `}` announces a byte that would have ended the packet.
fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut bytes = bytes.iter();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.as_slice().first()) {
            (b'}', Some(escaped)) => {
                plain.push(escaped ^ 0x20);
                bytes.next();
            }
            _ => plain.push(*byte),
        }
    }
    plain
}

/// The stub leaves the level out of some names.
fn full_name(name: &str) -> String {
    match name {
        "VBAR" | "SCTLR" | "CPACR" | "CNTKCTL" | "AMAIR0" => format!("{name}_EL1"),
        _ => name.to_owned(),
    }
}

/// What `pick` makes of every element of this name.
fn attributes<T>(
    text: &str,
    name: &[u8],
    pick: impl Fn(&BytesStart<'_>) -> Option<T>,
) -> io::Result<Vec<T>> {
    let mut reader = Reader::from_str(text);
    let mut found = Vec::new();
    loop {
        match reader.read_event() {
            Ok(Event::Empty(element) | Event::Start(element)) => {
                if element.name().as_ref() == name {
                    found.extend(pick(&element));
                }
            }
            Ok(Event::Eof) => return Ok(found),
            Ok(_) => {}
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = element.try_get_attribute(name).ok()??;
    String::from_utf8(attribute.value.into_owned()).ok()
}

fn hex_bytes(digits: &[u8]) -> io::Result<Vec<u8>> {
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(nonsense(digits));
    }
    pairs.map(|pair| Ok(hex_number(pair)? as u8)).collect()
}

fn hex_number(digits: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or_else(|| nonsense(digits))
}

/// A number of up to eight bytes.
fn little_endian(bytes: &[u8]) -> u64 {
    let low = bytes.iter().take(8).rev();
    low.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn nonsense(answer: &[u8]) -> io::Error {
    let answer = crate::escape::escape(&answer[..answer.len().min(80)]);
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the gdb stub answered {answer:?}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stub that answers these packets, in this order, and is not asked for others.
    fn stub(script: &'static [(&'static str, &'static str)]) -> GdbStub {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut input = Vec::new();
            let mut buffer = [0; 1000];
            let greeting = [
                ("qSupported:xmlRegisters=aarch64", "PacketSize=1000"),
                ("?", "T05thread:01;"),
            ];
            for (packet, answer) in greeting.iter().chain(script) {
                let asked = loop {
                    if let Some((asked, length)) = unframe(&input) {
                        input.drain(..length);
                        break asked;
                    }
                    let length = theirs.read(&mut buffer).unwrap();
                    input.extend_from_slice(&buffer[..length]);
                };
                assert_eq!(asked, packet.as_bytes());
                let framed = format!("+${answer}#{:02x}", checksum(answer.as_bytes()));
                // In pieces, as a socket may deliver it.
                for piece in framed.as_bytes().chunks(3) {
                    theirs.write_all(piece).unwrap();
                }
            }
        });
        GdbStub::new(ours).unwrap()
    }

    #[test]
    fn system_registers_are_found_by_name() {
        let mut stub = stub(&[
            (
                "qXfer:features:read:target.xml:0,ff0",
                "l<target><xi:include href=\"core.xml\"/><xi:include href=\"sys.xml\"/></target>",
            ),
            (
                "qXfer:features:read:core.xml:0,ff0",
                "m<feature><reg name=\"x0\"/>",
            ),
            (
                "qXfer:features:read:core.xml:19,ff0",
                "l<reg name=\"x1\"/></feature>",
            ),
            (
                "qXfer:features:read:sys.xml:0,ff0",
                "l<feature><reg name=\"VBAR\" regnum=\"68\"/><reg name=\"ESR_EL1\"/></feature>",
            ),
            ("p45", "0100009600000000"),
            ("p44", "0008000000000000"),
            ("p1", "0200000000000000"),
        ]);
        assert_eq!(stub.register("ESR_EL1").unwrap(), Some(0x9600_0001));
        assert_eq!(stub.register("VBAR_EL1").unwrap(), Some(0x800));
        assert_eq!(stub.register("x1").unwrap(), Some(2));
        assert_eq!(stub.register("ESR_EL3").unwrap(), None);
    }

    #[test]
    fn memory_is_physical_or_virtual_as_asked() {
        let mut stub = stub(&[
            ("m1000,2", "0aff"),
            ("Qqemu.PhyMemMode:1", "OK"),
            ("m1000,2", "0102"),
            ("M2000,2:0a0b", "OK"),
            ("Qqemu.PhyMemMode:0", "OK"),
            ("m1000,1", "E14"),
        ]);
        assert_eq!(stub.read_virtual(0x1000, 2).unwrap(), [0x0a, 0xff]);
        assert_eq!(stub.read_physical(0x1000, 2).unwrap(), [1, 2]);
        stub.write_physical(0x2000, &[10, 11]).unwrap();
        assert!(stub.read_virtual(0x1000, 1).is_err(), "nothing is there");
    }

    #[test]
    fn cpus_are_listed_and_stepped() {
        let mut stub = stub(&[
            ("qfThreadInfo", "m01,02"),
            ("qsThreadInfo", "l"),
            ("Hg2", "OK"),
            ("vCont;s:2", "T05thread:02;"),
            ("vCont;s:1", "W00"),
        ]);
        assert_eq!(stub.cpus().unwrap(), [1, 2]);
        stub.select(2).unwrap();
        stub.step(2).unwrap();
        assert!(stub.step(1).is_err(), "the guest has exited");
    }

    #[test]
    fn escaped_bytes_are_restored() {
        assert_eq!(unescape(b"a}\x03b}"), b"a#b}");
        assert_eq!(unframe(b"+$OK#9"), None);
        assert_eq!(unframe(b"+$OK#9a$"), Some((b"OK".to_vec(), 7)));
    }
}
