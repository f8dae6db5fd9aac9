use std::io::{Read, Write};
use std::net::TcpListener;

fn main() {
    let port = std::env::args().nth(2).and_then(|text| text.parse().ok()).unwrap_or(7000u16);
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    for mut stream in listener.incoming().flatten() {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nrust answers\n");
    }
}
