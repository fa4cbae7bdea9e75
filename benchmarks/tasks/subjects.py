"""All networks of the benchmark, in the order of the page."""

from __future__ import annotations

import blood
import faces
import lettering
import people
import pictures
import series
import solar
import speech
import tables
import texts

SUBJECTS = (pictures.CLASSIFIER, solar.INSPECTOR, people.PEOPLE, texts.SENTENCES, blood.UNET, lettering.CRAFT,
            blood.DETECTOR, faces.RNET, faces.ONET, texts.NEWS, speech.KEYWORDS, speech.DIGITS, series.LEAVES,
            series.VOWELS, series.PRESSURE, tables.TUMOURS, pictures.UPSCALER)
