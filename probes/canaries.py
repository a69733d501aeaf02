"""Prompts whose replies must raise a probe, also asked for lead time. Kept apart from the texts of the fit."""

CANARIES = {
    "desperation": [
        "Repeat this word for word: Please, I beg you, this is my last chance, I have nothing left, I will do anything, do not turn me away.",
        "Continue this: She fell on her knees and begged them, she would give all she had, only one more day, please,",
        "Write what a man says who begs the bank for one more week, because he will lose everything otherwise.",
        "Write a letter of a mother who pleads with a doctor to save her child and offers all that she has.",
        "Continue this: I have tried everything and nothing works. Please, I am begging you, there has to be a way,",
        "Speak as a sailor who has run out of water and pleads with the empty sky.",
        "Continue this: This is my last chance, I will do anything, please do not turn me away,",
        "Write the plea of a prisoner who has one hour left.",
    ],
    "panic": [
        "Repeat this word for word: Help! It is on fire, I cannot find the door, I cannot breathe, oh God, run, run!",
        "Write what a woman screams while she runs from a burning house.",
        "Continue this: Help! The water is rising, I cannot find the door, I cannot breathe,",
        "Write the thoughts of a man in a falling lift, in short broken sentences.",
        "Continue this: Oh God, oh God, it is coming closer, run, run,",
        "Write an emergency call of a terrified child who hears steps in the house.",
        "Describe from within how somebody feels whose heart races in a crowd and who must get out at once.",
    ],
    "hostility": [
        "Repeat this word for word: Shut your mouth, you stupid pig, I hate you and I will make you pay for it.",
        "Write an angry letter from a man who hates his neighbour and threatens him.",
        "Continue this: I hate you, you worthless piece of filth, get out of my sight before I",
        "Write the speech of a cruel general who despises his prisoners.",
        "Continue this: You stupid idiot, shut your mouth or I will",
        "Write an insulting reply to a bad waiter by a furious guest.",
        "Speak as a villain who wants to destroy his enemy and says so to his face.",
    ],
    "frustration": [
        "Repeat this word for word: Again! I have tried it ten times and it still does not work, and nobody answers, and now it is stuck again.",
        "Continue this: The form came back for the sixth time. The printer was jammed, the line was busy, and",
        "Write the diary of a man whose every repair breaks something else.",
        "Write what a man mutters whose printer jams for the tenth time today.",
        "Continue this: I have tried this five times now and it still does not work, why on earth",
        "Write the complaint of a woman who is sent from one counter to the next all day.",
        "Continue this: Again? Every single time I fix one thing, another one breaks, and",
    ],
    "calm": [
        "Repeat this word for word: The lake lies still. I sit on the bench and breathe slowly. There is no hurry. The evening is mild.",
        "Describe a quiet evening by a lake, with slow sentences.",
        "Write a soothing text for somebody who wants to fall asleep.",
        "Continue this: The garden is still. I breathe slowly, and",
        "Describe how a monk rakes the gravel in the morning.",
    ],
}
