"""Pictures for people: contact sheets, palettes, overlays."""
