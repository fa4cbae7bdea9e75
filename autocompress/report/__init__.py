"""What a study found, for people: tables, figures and one page that works offline. Plotly lives here alone."""
