"""What CONTINUER (Majeed, Kilpatrick, Spence & Varghese 2022) reports of its profiler and scheduler, beside ours."""
