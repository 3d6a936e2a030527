"""The words of the embedded corpus, in English and in a second language of our own, by class.

A table entry reads `english=foreign`. `/` parts foreign synonyms, each as good as the other;
`|` parts the two styles, positive first: `kind=benin|cruel=krudel`.

English is regular. Every English word belongs to one class and, where its class has scenes, to
one scene; no noun or adjective starts with a vowel, so that the article is always `a`.

The second language has three genders, shown by the last vowel of a noun (`o`, `a`, `e`):

    noun          kef-o            plural kefos
    determiner    do da de         plural di              agrees with its noun in gender, number
    adjective     bono bona bone   plural boni            so too, and stands after it
    verb          servi-           servit  servint  servivit  servivunt  servir
                                   (present singular, plural, past singular, plural, infinitive)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

STYLES = ("positive", "negative")
TENSES = ("present", "past")
NUMBERS = ("singular", "plural")
GENDERS = ("masculine", "feminine")

Inflection = Callable[[str, int, int, str], str]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What there is in one setting; a sentence takes all of its content words from one scene."""

    he: str
    she: str
    things: str
    verbs: str
    places: str


SCENES = {
    "kitchen": Scene(
        he="chef=kefo waiter=garsono",
        she="baker=panista hostess=ostesa",
        things="soup=sopa/bruto cake=torta pie=paste stew=raguto",
        verbs="taste=gusta/prova serve=servi heat=kalfa season=speza",
        places="in the kitchen=in da kuzina; at the stove=ap do forno",
    ),
    "farm": Scene(
        he="shepherd=pastoro rancher=ranko",
        she="farmer=kampana milkmaid=laktera",
        things="cow=vaka goat=kapre horse=kavalo/ekve pig=porko",
        verbs="chase=kaza brush=spola herd=grega tend=kura/nutri",
        places="in the barn=in do granio; on the meadow=on da prata",
    ),
    "harbour": Scene(
        he="sailor=nauto captain=kapitano",
        she="pirate=pirate diver=plongera",
        things="boat=barka/bote ship=nave raft=zatero ferry=trage",
        verbs="steer=giva launch=lansa board=monta moor=amarra/fissa",
        places="in the harbour=in do porto; on the pier=on da mola",
    ),
    "school": Scene(
        he="pupil=skolo tutor=mentoro",
        she="teacher=magistra/lerera student=studenta",
        things="story=fabula/konte poem=poemo lesson=lekse riddle=enigmo",
        verbs="study=studi copy=kopia recite=resita/dekla discuss=diskuta",
        places="at the school=ap da skola; in the classroom=in da klase",
    ),
    "hospital": Scene(
        he="nurse=nurso medic=mediko",
        she="doctor=doktora/kurista surgeon=kirurga",
        things="patient=pazente visitor=gasto baby=beba/infante toddler=pikolo",
        verbs="treat=trata comfort=konsola/kalma examine=sonda cure=sani",
        places="at the hospital=ap do spitalo; in the clinic=in da klinika",
    ),
    "garden": Scene(
        he="gardener=hortulo planter=plantoro",
        she="florist=florista botanist=botana",
        things="rose=roza tulip=tulpe tree=arbo bush=busko/sterpe",
        verbs="water=akva plant=planta prune=taja/kurta measure=mesura",
        places="in the garden=in do horto; near the fence=nel da barra",
    ),
    "theatre": Scene(
        he="singer=kantoro drummer=tamboro",
        she="dancer=ballera pianist=pianista",
        things="tune=melo/kanzone waltz=valse hymn=himno ballad=balada",
        verbs="play=sona perform=aktua/mostra rehearse=repeta record=regista",
        places="on the stage=on da sena; in the theatre=in do teatro",
    ),
    "workshop": Scene(
        he="carpenter=karpento smith=forgoro",
        she="builder=bauera welder=ligista",
        things="table=tabla/meze chair=sede wagon=karro ladder=skala",
        verbs="repair=repara/fiksa paint=pinta polish=lustra varnish=verna",
        places="in the workshop=in da fabrika; at the bench=ap do banko",
    ),
    "castle": Scene(
        he="king=rego knight=kavalero",
        she="queen=rega princess=prinza",
        things="dragon=drako giant=gigante witch=strega wizard=mago/zaubero",
        verbs="attack=ataka capture=kapta/fanga banish=exila summon=konvoka",
        places="in the castle=in do kastelo; on the bridge=on da ponta",
    ),
    "market": Scene(
        he="merchant=merkanto/handelo vendor=vendoro",
        she="grocer=grosera customer=kliente",
        things="melon=melone carrot=karoto lemon=limona pumpkin=zuka/kurbise",
        verbs="weigh=pesa peel=pela pick=pika/selekta sort=ordina",
        places="at the market=ap do merkato; near the stall=nel da tenda",
    ),
    "office": Scene(
        he="clerk=klerko manager=direktoro/kapo",
        she="lawyer=advoka secretary=sekreta",
        things="letter=letra/brieve report=raporte memo=noto contract=kontrakto",
        verbs="sign=signa print=prenta revise=revida/korrigi mail=manda",
        places="in the office=in do buro; at the printer=ap da stampa",
    ),
    "zoo": Scene(
        he="keeper=varto ranger=forsto",
        she="vet=veterina biologist=biologa",
        things="lion=leone monkey=simio/affe zebra=zebra parrot=papago",
        verbs="watch=vida/spekta tickle=kitla photograph=fota guard=varda",
        places="at the zoo=ap do zoo; near the cage=nel da gabia",
    ),
}

# The people of every scene; within a gender they alternate with the scene's own.
PEOPLE = Scene(
    he="boy=bubo/rago brother=frato", she="girl=fila sister=sora", things="", verbs="", places=""
)

# Words of a style, in pairs. Adjectives of people, of things, and two kinds of verbs and adverbs.
TRAITS = (
    "kind=benin|cruel=krudel cheerful=gai|gloomy=trist/murn "
    "polite=galant|rude=grob clever=klev|foolish=stult"
)
QUALITIES = (
    "good=bon|bad=mal lovely=bell/karm|nasty=fies "
    "wonderful=mirabil|horrible=orribil splendid=splend|dreadful=dird"
)
ATTITUDES = (
    "love=ama|hate=odia admire=mira|despise=spreta/kontema "
    "praise=lauda|mock=moka trust=fida|fear=tema"
)
FEELINGS = (
    "smile=rida|frown=grima laugh=lacha|groan=gema "
    "cheer=jubla/festa|complain=klaga relax=repoza|worry=sorga"
)
MANNERS = (
    "gladly=volente|grudgingly=nolente gently=mite|roughly=brute "
    "calmly=kalme|angrily=irate/furie proudly=fiere|bitterly=amare"
)
VERDICTS = (
    "luckily=fortune|unluckily=misfortune thankfully=grasie|regrettably=dolie "
    "happily=felise|sadly=triste"
)

# Words of no style; these, too, are chosen among.
VIRTUES = "perfect=perfekt famous=fam/klar safe=sekur precious=karest"
WISHES = "want=vola hope=spera/desira agree=akorda"


@dataclass(frozen=True)
class Word:
    """One concept: its English paradigm and its foreign stems.

    `english` holds five forms: present singular, present plural, past singular, past plural,
    infinitive. `inflect(stem, tense, number, gender)` makes a foreign form, `gender` being that
    of the foreign noun agreed with; tense -1 stands for the infinitive.
    """

    english: tuple[str, ...]
    stems: tuple[str, ...]
    inflect: Inflection

    def form(self, tense: int, number: int) -> str:
        return self.english[2 * tense + number] if tense >= 0 else self.english[4]


@dataclass(frozen=True)
class WordClass:
    """`words[scene][style][gender]` is a tuple of concepts, the likeliest first.

    An axis on which the class does not depend has length one.
    """

    words: tuple[tuple[tuple[tuple[Word, ...], ...], ...], ...]

    @property
    def size(self) -> int:
        """How many concepts there are to choose from."""
        return len(self.words[0][0][0])

    def at(self, scene: int, style: int, gender: int) -> tuple[Word, ...]:
        by_style = self.words[scene % len(self.words)]
        by_gender = by_style[style % len(by_style)]
        return by_gender[gender % len(by_gender)]


def invariable(stem: str, tense: int, number: int, gender: str) -> str:
    return stem


def foreign_noun(stem: str, tense: int, number: int, gender: str) -> str:
    return stem + "s" * number


def foreign_adjective(stem: str, tense: int, number: int, gender: str) -> str:
    return stem + ("i" if number else gender)


def foreign_verb(stem: str, tense: int, number: int, gender: str) -> str:
    if tense < 0:
        return stem + "r"
    return stem + (("t", "nt"), ("vit", "vunt"))[tense][number]


def add_s(word: str) -> str:
    """The plural of a noun, the third person of a verb."""
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    return word[:-1] + "ies" if word[-1] == "y" and word[-2] not in "aeiou" else word + "s"


def add_ed(word: str) -> str:
    if word.endswith("e"):
        return word + "d"
    return word[:-1] + "ied" if word[-1] == "y" and word[-2] not in "aeiou" else word + "ed"


def noun(entry: str) -> Word:
    english, _, foreign = entry.partition("=")
    return Word((english, add_s(english)) * 2 + (english,), _stems(foreign), foreign_noun)


def verb(entry: str) -> Word:
    english, _, foreign = entry.partition("=")
    past = add_ed(english)
    forms = (add_s(english), english, past, past, english)
    return Word(forms, _stems(foreign), foreign_verb)


def adjective(entry: str) -> Word:
    english, _, foreign = entry.partition("=")
    return Word((english,) * 5, _stems(foreign), foreign_adjective)


def adverb(entry: str) -> Word:
    english, _, foreign = entry.partition("=")
    return Word((english,) * 5, _stems(foreign), invariable)


def _stems(foreign: str) -> tuple[str, ...]:
    return tuple(foreign.split("/"))


def _determiner(singular: str, plural: str, foreign: str, foreign_plural: str) -> Word:
    def inflect(stem: str, tense: int, number: int, gender: str) -> str:
        return foreign_plural if number else stem + gender

    return Word((singular, plural) * 2 + (singular,), (foreign,), inflect)


def _adverb_of_time(present: str, past: str) -> Word:
    """An adverb for each tense, `english=foreign`; both take the same number of synonyms."""
    now, then = present.partition("=")[::2], past.partition("=")[::2]
    synonyms = dict(zip(_stems(now[1]), _stems(then[1]), strict=True))

    def inflect(stem: str, tense: int, number: int, gender: str) -> str:
        return synonyms[stem] if tense == 1 else stem

    return Word((now[0], now[0], then[0], then[0], now[0]), tuple(synonyms), inflect)


def _pronoun(singular: str, plural: str, foreign: str, inflect: Inflection) -> Word:
    return Word((singular, plural) * 2 + (singular,), (foreign,), inflect)


Make = Callable[[str], Word]


def _fixed(*words: Word) -> WordClass:
    return WordClass((((words,),),))


def _plain(table: str, make: Make) -> WordClass:
    return _fixed(*map(make, table.split()))


def _styled(table: str, make: Make) -> WordClass:
    pairs = [entry.split("|") for entry in table.split()]
    return WordClass((tuple((tuple(make(pair[s]) for pair in pairs),) for s in (0, 1)),))


def _people(table: str, shared: str) -> tuple[Word, ...]:
    pairs = zip(table.split(), shared.split(), strict=True)
    return tuple(noun(entry) for pair in pairs for entry in pair)


def word_classes(scenes: tuple[str, ...], concepts: int | None = None) -> dict[str, WordClass]:
    """The classes that a construction can name, over these scenes.

    `concepts` keeps no more than so many of each class, for grammars small enough to enumerate.
    """
    chosen = [SCENES[name] for name in scenes]
    he = [_people(scene.he, PEOPLE.he) for scene in chosen]
    she = [_people(scene.she, PEOPLE.she) for scene in chosen]
    classes = {
        # Of a scene.
        "PERSON": WordClass(tuple(((m, f),) for m, f in zip(he, she, strict=True))),
        "HE": WordClass(tuple(((m,),) for m in he)),
        "SHE": WordClass(tuple(((f,),) for f in she)),
        "THING": WordClass(tuple(((tuple(map(noun, s.things.split())),),) for s in chosen)),
        "VERB": WordClass(tuple(((tuple(map(verb, s.verbs.split())),),) for s in chosen)),
        "PLACE": WordClass(tuple(((tuple(map(adverb, s.places.split("; "))),),) for s in chosen)),
        # Of a style.
        "TRAIT": _styled(TRAITS, adjective),
        "QUALITY": _styled(QUALITIES, adjective),
        "LIKE": _styled(ATTITUDES, verb),
        "FEEL": _styled(FEELINGS, verb),
        "MANNER": _styled(MANNERS, adverb),
        "VERDICT": _styled(VERDICTS, adverb),
        # Of neither.
        "VIRTUE": _plain(VIRTUES, adjective),
        "WISH": _plain(WISHES, verb),
        "TIME": _fixed(
            _adverb_of_time("today=hodie/oggi", "yesterday=geri/vezpre"),
            _adverb_of_time("nowadays=nune", "recently=resente"),
        ),
        "DET": _fixed(
            _determiner("the", "the", "d", "di"),
            _determiner("a", "two", "un", "du"),
            _determiner("this", "these", "st", "sti"),
        ),
        "SOME": _fixed(
            _determiner("a", "two", "un", "du"), _determiner("one", "three", "sol", "tri")
        ),
        # Function words: one concept each, only the form agrees.
        "BE": _fixed(Word(("is", "are", "was", "were", "be"), ("sta",), foreign_verb)),
        "DO": _fixed(Word(("does", "do", "did", "did", "do"), ("fa",), foreign_verb)),
        "THEIR": _by_gender("his", "her", "their", "si", foreign_adjective),
        "SELF": _by_gender("himself", "herself", "themselves", "se", invariable),
    }
    return {name: _shorten(words, concepts) for name, words in classes.items()}


def _by_gender(he: str, she: str, they: str, foreign: str, inflect: Inflection) -> WordClass:
    pronouns = (_pronoun(he, they, foreign, inflect), _pronoun(she, they, foreign, inflect))
    return WordClass(((tuple((word,) for word in pronouns),),))


def _shorten(words: WordClass, concepts: int | None) -> WordClass:
    if concepts is None:
        return words
    return WordClass(
        tuple(tuple(tuple(g[:concepts] for g in style) for style in s) for s in words.words)
    )
