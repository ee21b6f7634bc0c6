"""CurvatureMuon's measured lengths beside Muon with its rate tuned for each task."""
