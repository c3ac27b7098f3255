//! QR codes as pictures.

use qrcode::{Color, EcLevel, QrCode};

/// Pixels of a module's side.
const SCALE: usize = 12;
/// Modules of white around the code (ISO/IEC 18004: four).
const QUIET: usize = 4;

/// A picture (PNG, grey) of a code that says `text`. The error is for operators: the text is too long.
pub(super) fn png(text: &str) -> Result<Vec<u8>, String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::M).map_err(|error| error.to_string())?;
    let modules = code.width();
    let side = (modules + 2 * QUIET) * SCALE;
    let mut pixels = vec![u8::MAX; side * side];
    for (at, color) in code.to_colors().into_iter().enumerate() {
        if color == Color::Dark {
            let (top, left) = ((at / modules + QUIET) * SCALE, (at % modules + QUIET) * SCALE);
            for row in pixels.chunks_exact_mut(side).skip(top).take(SCALE) {
                row[left..left + SCALE].fill(0);
            }
        }
    }
    let mut picture = Vec::new();
    let size = u32::try_from(side).map_err(|error| error.to_string())?;
    let mut encoder = png::Encoder::new(&mut picture, size, size);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(|error| error.to_string())?;
    writer.write_image_data(&pixels).map_err(|error| error.to_string())?;
    writer.finish().map_err(|error| error.to_string())?;
    Ok(picture)
}

#[cfg(test)]
mod tests {
    #[test]
    fn another_library_reads_what_a_picture_says() {
        for text in ["https://t.me/baal_bot?start=a_3q2-7wAAAAAAAAAAAAAAAA", "agent 42, größer"] {
            let picture = super::png(text).expect("a picture");
            let mut reader = png::Decoder::new(std::io::Cursor::new(&picture)).read_info().expect("a PNG");
            let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
            let frame = reader.next_frame(&mut pixels).expect("a frame");
            let side = frame.width as usize;
            let mut image = rqrr::PreparedImage::prepare_from_greyscale(side, side, |x, y| pixels[y * side + x]);
            let grids = image.detect_grids();
            let (_, said) = grids.first().expect("a code").decode().expect("readable");
            assert_eq!(said, text);
        }
        assert!(super::png(&"x".repeat(10_000)).is_err());
    }
}
