//! Tables for people.

use crate::terminal::clean_line;

/// Columns wide enough for what is in them; the last one is not filled up.
pub fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|name| name.to_uppercase()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(header)
        .chain(rows.iter().map(|row| row.iter().map(|cell| clean_line(cell)).collect()))
        .collect();
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cells_cannot_break_them() {
        let rows = [
            vec!["1".to_owned(), "sta\u{1b}[2Jts".to_owned(), "ready".to_owned()],
            vec!["22".to_owned(), "ä".to_owned(), String::new()],
        ];
        assert_eq!(
            render(&["id", "name", "status"], &rows),
            "ID  NAME   STATUS\n1   stats  ready\n22  ä\n"
        );
    }

    #[test]
    fn an_empty_first_cell_keeps_its_column() {
        assert_eq!(render(&["a", "b"], &[vec![String::new(), "x".to_owned()]]), "A  B\n   x\n");
    }
}
