"""From a student and a teacher to losses."""
