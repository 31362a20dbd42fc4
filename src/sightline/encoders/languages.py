"""Whether a text is in another language than English, by its commonest words: a model that reads English guesses then.

Small words and what people look for in pictures, of languages in Latin script; none is in use in English captions.
Of 198,048 real captions 3 are taken for foreign (`benchmarks/languages.py`).
"""

import re
import unicodedata

_FOREIGN = {
    "German": "ein eine einen einem einer der das den dem und ist auf mit im von vom zum zur für aus unter über "
    "neben vor nicht kein hund hunde katze katzen frau mann kind kinder mädchen junge auto autos haus "
    "baum bäume strand meer berg berge stadt straße blume blumen vogel vögel pferd pferde schnee rot rote "
    "roter rotes blau blaue blauer blaues grün grüne gelb schwarz schwarze schwarzer schwarzes weiß weiße "
    "weißer weißes spielt spielen läuft essen himmel sonnenuntergang wald fluss wasser fahrrad küche "
    "tisch zwei drei leute menschen großer große kleine kleiner alte",
    "French": "le la les un une des du et est dans avec pour sous près chien chiens chienne chaton femme femmes "
    "homme hommes enfant enfants fille garçon voiture voitures maison arbre arbres plage mer montagne "
    "montagnes ville rue fleur fleurs oiseau oiseaux cheval chevaux neige rouge rouges bleu bleue vert "
    "verte jaune noir noire blanc blanche joue jouant qui mange ciel coucher soleil forêt rivière eau "
    "vélo cuisine deux trois gens grand petite vieille au aux",
    "Spanish": "el los las una unos del y en con por para sobre bajo perro perros gato gatos gata mujer mujeres "
    "hombre hombres niño niños niña niñas chico chica coche carro árbol árboles playa montaña montañas "
    "ciudad calle flores pájaro pájaros caballo caballos nieve rojo roja azul amarillo negro negra blanco "
    "blanca jugando corriendo comiendo cielo atardecer bosque río agua bicicleta cocina mesa dos tres "
    "gente viejo pequeño",
    "Italian": "il gli uno della dello delle nel nella sul sulla sulle di che sotto cani gatto gatti donna donne "
    "uomo uomini bambino bambini bambina ragazzo ragazza macchina albero alberi spiaggia montagna città "
    "fiore fiori uccello uccelli cavallo cavalli neve rosso rossa giallo nero nera bianco bianca gioca "
    "mangia cielo tramonto bosco fiume acqua bicicletta cucina tavolo tre persone vecchio piccolo",
    "Portuguese": "um uma os da dos das na nos nas ao com sob cachorro cachorros cão cães mulher mulheres homem homens "
    "menino menina criança crianças carros árvore árvores praia montanha cidade rua flor pássaro cavalo "
    "vermelho vermelha amarelo preto preta branco branca brincando correndo comendo céu sol floresta rio "
    "água cozinha pessoas pequeno",
    "Dutch": "een het van op bij naast voor onder niet geen hond honden kat katten vrouw vrouwen mannen meisje "
    "jongen kinderen huis boom bomen zee bergen stad straat bloem bloemen vogels paard paarden sneeuw "
    "rood rode blauw blauwe groen groene geel gele zwart zwarte wit witte speelt rent lucht zonsondergang "
    "bos fiets keuken twee drie mensen",
    "Nordic": "ett och på med som är av det er et og till til för hund hundar kvinna kvinde kvinne mand flicka pige "
    "jente pojke dreng gutt bil bilar biler hus träd strand hav fjäll stad gata blomma fågel häst hest "
    "snö sne snø röd rød röda blå grön grønn gul svart sort vit hvit hvid leker spelar springer äter "
    "himmel solnedgång skog skov",
    "Polish": "na w z i pod przy pies psy kot koty kobieta mężczyzna dziecko dzieci dziewczyna chłopiec samochód "
    "dom drzewo plaża plaży morze góry miasto ulica kwiat kwiaty ptak koń śnieg śniegu czerwony czerwona "
    "niebieski zielony czarny biały niebo las rzeka woda rower kuchnia stół dwa trzy ludzie",
    "Turkish": "bir ve ile için köpek kedi kadın adam çocuk çocuklar kız araba ev ağaç plaj plajda deniz dağ şehir "
    "sokak çiçek kuş kırmızı mavi yeşil sarı siyah beyaz oynayan koşan gökyüzü orman nehir bisiklet "
    "mutfak masa iki",
    "others": "ve se je pes kočka žena muž dítě auto dům strom pláž moře červené câine pisică femeie bărbat copil "
    "mașină casă plajă și pe cu roșu egy és kutya macska nő férfi gyerek ház fa piros koira kissa nainen "
    "mies lapsi talo puu ranta rannalla punainen seekor anjing kucing perempuan wanita pria anak mobil "
    "rumah pohon pantai di yang dan merah",
}
_ENGLISH = frozenset(
    "a an and are at behind black blue by cat dog for from green her his holding in into is it its "
    "looking man near next of on or over people photo picture playing red riding sitting some standing "
    "that the their this three to two under walking wearing which while white who with woman".split()
)
_SHARED = frozenset(
    "adam anak auto carro den fa i kind las mobil pies pour rent rio rode se sol sort sous till w wit y z".split()
)
"""Of the words above those that English has too."""

_OF_NAMES = frozenset(
    "al au blanc boom cavalli com cuisine da das de del der des di donna dos du eau el en femme femmes "
    "grand homme la le les los med na negro noir op para perros petite pod rouge rower soleil springer "
    "strand tres un uno van ville von".split()
)
"""Those that names and brands are made of: they count half."""

_WORDS = frozenset(" ".join(_FOREIGN.values()).split()) - _ENGLISH - _SHARED
_SENTENCE, _SYLLABLES = 4, 2.2  # words, and pieces a word: of 200,000 English captions 1 in 10,000 has 2 or more
_WORD = re.compile(r"[^\W\d_]+")


def is_foreign(text: str, *, pieces: int = 0) -> bool:
    """Whether more words of a text are common in another language than are in English.

    A word with an accent that is not on the lists counts a third: it may be a name. A sentence without an English word
    that an English model has to cut to `pieces` of syllables is foreign, too.
    """
    words = _WORD.findall(unicodedata.normalize("NFC", text).lower())
    english = sum(word in _ENGLISH for word in words)
    foreign = sum(
        (0.5 if word in _OF_NAMES else 1.0) if word in _WORDS else 0.0 if word.isascii() else 0.33
        for word in set(words)
    )
    is_cut = not english and len(words) >= _SENTENCE and pieces >= _SYLLABLES * len(words)
    return is_cut or (foreign >= 1 and foreign > english)
