"""`eyas report`: one self-contained HTML page from run folders. Reads what runs leave behind; trains nothing."""
