"""What a trial is judged by: the accuracy matrix, objectives, intervals and the champion."""
