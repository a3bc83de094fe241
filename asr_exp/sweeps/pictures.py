def draw_study(study, folder, ranges):
    pass
