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
