"""What leaves the house: synthetic sets past the copies gate with a datasheet, and de-identified copies of scans."""
