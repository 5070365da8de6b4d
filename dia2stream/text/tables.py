"""Lists of words that the text front end knows, as text: they read best so."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _pairs(text: str) -> dict[str, str]:
    """Lines or |-separated parts, "written=said"; blanks around them do not count."""
    parts = (part.strip() for line in text.splitlines() for part in line.split("|"))
    split = (part.partition("=") for part in parts if part)
    return {written: said for written, _, said in split}


# ---- Markup ----

# Tags inside a word, tags around which there is a pause, and others that are known; all but the first part words.
INLINE_TAGS = _words("""
a abbr b bdi bdo big cite code del dfn em emphasis font i ins kbd lang mark phoneme prosody q s samp say-as small span
strike strong sub sup tt u var w
""")
STRUCTURE_TAGS = _words("h1 h2 h3 h4 h5 h6 hr li")
KNOWN_TAGS = (
    INLINE_TAGS
    | STRUCTURE_TAGS
    | _words("""
article aside audio blockquote body br caption center dd details div dl dt figure footer form head header html img
input link main meta nav ol option p pre section select speak summary table tbody td tfoot th thead title tr ul video
voice
""")
)
# Left out with all that is inside.
LEFT_OUT_TAGS = _words("think thinking thought thoughts reasoning reflection scratchpad script style")

# Sounds that the published model makes, written in brackets.
SOUNDS = _words("""
laughs laugh laughing chuckles chuckle sighs sigh gasps gasp coughs cough singing sings mumbles beep groans groan
sniffs sniff claps clap screams scream inhales inhale exhales exhale applause burps burp humming hums sneezes sneeze
whistles whistle
""")
SOUNDS_OF_TWO = frozenset(["clears throat"])

# ---- Dates and times ----

MONTHS = tuple(
    "January February March April May June July August September October November December".split()  # noqa: SIM905
)
DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())  # noqa: SIM905
SHORT_MONTHS = {name[:3]: name for name in MONTHS if name != "May"} | {"Sept": "September"}
SHORT_DAYS = {name[:3]: name for name in DAYS} | {"Tues": "Tuesday", "Thur": "Thursday", "Thurs": "Thursday"}
BEFORE_DATES = _words("""
on by until till since before after due through thru ships shipped arrives arriving departs returns delivered expires
starts ends begins opens closes renews renewed posts posted dated effective scheduled
""")
ZONES = _words("""
ET EST EDT CT CST CDT MT MST MDT PT PST PDT GMT UTC BST CET CEST EET EEST WET IST JST KST SGT HKT AEST AEDT HST AKST
AKDT MSK
""")
BEFORE_YEARS = _words("""
in since by of from until till year to and or before after around circa late early mid during through between summer
spring fall autumn winter the copyright \u00a9 january february march april may june july august september october
november december est founded established jan feb mar apr jun jul aug sep sept oct nov dec c ca ad a.d
""")
AFTER_YEARS = _words("was is will saw has had were election season edition olympics budget report")
BEFORE_MODELS = _words("a an this that my your his her our their new used")  # "a 2019 Honda"
BEFORE_DECADES = _words("the roaring early late mid low lower high upper his her their my our your")

# ---- Quantities ----

# One, several, and the hundredth part, one and several.
MONEY = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "US$": ("U S dollar", "U S dollars", "cent", "cents"),
    "C$": ("Canadian dollar", "Canadian dollars", "cent", "cents"),
    "CA$": ("Canadian dollar", "Canadian dollars", "cent", "cents"),
    "AU$": ("Australian dollar", "Australian dollars", "cent", "cents"),
    "A$": ("Australian dollar", "Australian dollars", "cent", "cents"),
    "\u20ac": ("euro", "euros", "cent", "cents"),
    "\u00a3": ("pound", "pounds", "penny", "pence"),
    "\u00a5": ("yen", "yen", "", ""),
    "\u20b9": ("rupee", "rupees", "paisa", "paise"),
    "\u20a9": ("won", "won", "", ""),
    "\u20bd": ("ruble", "rubles", "kopeck", "kopecks"),
    "\u20ba": ("lira", "lira", "kurus", "kurus"),
    "\u20aa": ("shekel", "shekels", "agora", "agorot"),
    "\u20bf": ("bitcoin", "bitcoin", "", ""),
    "R$": ("real", "reais", "centavo", "centavos"),
    "HK$": ("Hong Kong dollar", "Hong Kong dollars", "cent", "cents"),
    "NZ$": ("New Zealand dollar", "New Zealand dollars", "cent", "cents"),
    "S$": ("Singapore dollar", "Singapore dollars", "cent", "cents"),
    "MX$": ("Mexican peso", "Mexican pesos", "centavo", "centavos"),
    "CHF": ("Swiss franc", "Swiss francs", "centime", "centimes"),
    "CNY": ("yuan", "yuan", "", ""),
    "MXN": ("peso", "pesos", "centavo", "centavos"),
    "SEK": ("Swedish krona", "Swedish kronor", "", ""),
    "NOK": ("Norwegian krone", "Norwegian kroner", "", ""),
    "DKK": ("Danish krone", "Danish kroner", "", ""),
    "PLN": ("zloty", "zloty", "", ""),
    "ZAR": ("rand", "rand", "cent", "cents"),
}
# The letters of a currency -> its sign in MONEY.
CURRENCIES = _pairs("""
USD=US$ | EUR=\u20ac | GBP=\u00a3 | JPY=\u00a5 | CAD=C$ | AUD=A$ | INR=\u20b9 | KRW=\u20a9 | BTC=\u20bf
BRL=R$ | HKD=HK$
NZD=NZ$ | SGD=S$ | CHF=CHF | CNY=CNY | RMB=CNY | MXN=MXN | SEK=SEK | NOK=NOK | DKK=DKK | PLN=PLN | ZAR=ZAR
""")
SCALES = _words("hundred thousand million billion trillion")
MAGNITUDES = _pairs("""
k=thousand | K=thousand | m=million | M=million | mn=million | MM=million | b=billion | B=billion | bn=billion
T=trillion | tn=trillion
""")
# Written=one of it. The plural is made of the first word before "per".
UNITS = _pairs("""
N-m=newton meter | N\u00b7m=newton meter | lb-ft=pound foot | ft-lb=foot pound
KG=kilogram | LB=pound | LBS=pound | OZ=ounce | ML=milliliter | MM=millimeter | CM=centimeter | KM=kilometer | FT=foot
MPH=mile per hour | HR=hour | HRS=hour | MIN=minute | MINS=minute | mm=millimeter | cm=centimeter | m=meter
km=kilometer | in=inch | ft=foot | ac=acre | sf=square foot | bps=basis point | BR=bedroom | bd=bedroom | bdrm=bedroom
BA=bath | ba=bath | yd=yard | mi=mile | m\u00b2=square meter | km\u00b2=square kilometer | mi\u00b2=square mile
ft\u00b2=square foot | sqft=square foot | m\u00b3=cubic meter | cm\u00b3=cubic centimeter | \u00b5g=microgram
\u03bcg=microgram | \u03bcm=micrometer | \u03bcl=microliter | \u03bcL=microliter | \u03bcs=microsecond | nm=nanometer
dl=deciliter | dL=deciliter | \u03a9=ohm | k\u03a9=kilohm | M\u03a9=megohm | mol=mole | Mb=megabit | Gb=gigabit
mg=milligram | g=gram | kg=kilogram | lb=pound | lbs=pound | oz=ounce | ml=milliliter | mL=milliliter | cl=centiliter
l=liter | L=liter | gal=gallon | qt=quart | tbsp=tablespoon | tsp=teaspoon | tbsps=tablespoon | tsps=teaspoon
fl oz=fluid ounce | mcg=microgram | cc=C C | IU=I U | ns=nanosecond | \u00b5s=microsecond | ms=millisecond | s=second
sec=second | secs=second | min=minute | mins=minute | d=day | h=hour | hr=hour | hrs=hour | wk=week | wks=week
mo=month | mos=month | yr=year | yrs=year | Hz=hertz | kHz=kilohertz | MHz=megahertz | GHz=gigahertz | bit=bit
kB=kilobyte | KB=kilobyte | MB=megabyte | GB=gigabyte | TB=terabyte | PB=petabyte | KiB=kibibyte | MiB=mebibyte
GiB=gibibyte | kbps=kilobit per second | Mbps=megabit per second | Gbps=gigabit per second | MB/s=megabyte per second
GB/s=gigabyte per second | mW=milliwatt | W=watt | kW=kilowatt | MW=megawatt | GW=gigawatt | kWh=kilowatt hour
mAh=milliamp hour | V=volt | mV=millivolt | A=amp | mA=milliamp | dB=decibel | Pa=pascal | kPa=kilopascal | psi=P S I
kcal=kilocalorie | cal=calorie | J=joule | kJ=kilojoule | N=newton | hp=horsepower | rpm=R P M | fps=frame per second
ft-lb=foot pound | ft-lbs=foot pound
lb-ft=pound foot | mmHg=millimeters of mercury | mph=mile per hour
kph=kilometer per hour | km/h=kilometer per hour
m/s=meter per second | mpg=mile per gallon | m/s\u00b2=meter per second squared | m/s^2=meter per second squared
bpm=beat per minute | dpi=D P I | DPI=D P I | ppi=P P I | MP=megapixel | Wh=watt hour | Ah=amp hour | lm=lumen
inHg=inches of mercury | hPa=hectopascal | kn=knot | kt=knot | kts=knot | mmol/L=millimole per liter | \u2605=star
F=degree Fahrenheit | C=degree Celsius | \u00b0N=degree north | \u00b0S=degree south | \u00b0E=degree east
\u00b0W=degree west | \u00b0=degree | \u00b0F=degree Fahrenheit | \u00b0C=degree Celsius | \u00b0K=kelvin | %=percent
\u00a2=cent | x=time | X=time | \u00d7=time | px=pixel | pt=point | pts=point | ppm=part per million
""")
INVARIABLE_UNITS = _words("hertz kilohertz megahertz gigahertz percent horsepower kelvin star") | {
    *("P S I", "R P M", "C C", "I U", "D P I", "P P I", "millimeters of mercury", "inches of mercury"),
}
IRREGULAR_PLURALS = {"foot": "feet", "inch": "inches"}
ATTACHED_UNITS = _words("in x X \u00d7 pt A N J F C")  # that stand alone, these are words or letters
# What a number and its unit stand before as an adjective does, and the unit in the singular: "a 10 lb bag".
MEASURED = _words("""
angle apartment bag band battery bed bill board bottle box bowl bulb cable camera can card charger circle coin condo
contract dash deal delay discount disk display door drive drop engine farm fee fence file fine gift hike home house
interval jar jug lead lens limit loan lot lunch monitor motor note offer outlet pack package pan panel phone pipe
pizza plan plank plant plate pool pot prize race radius relay rally raise ride rod room rope ruler run salary screen
service shift sirloin sprint steak supply swim tank tape ticket tip townhouse trip tube turn voucher walk wall warranty
watch wind gust zone
""")
NOT_MEASURED = _words("""
wide tall long deep high thick by x in of and or to from per apart away at on is are was for with i we you it diameter
across expected each if but as the a an that
""")  # behind inches and feet, not what they measure

PER = _pairs("""
mo=month | yr=year | hr=hour | h=hour | s=second | sec=second | min=minute | wk=week | d=day | kg=kilogram | lb=pound
GB=gigabyte | kWh=kilowatt hour | mi=mile | qtr=quarter | mol=mole | ml=milliliter | mL=milliliter | dl=deciliter
dL=deciliter | l=liter | L=liter
""")

DOSES = _words(
    "daily nightly weekly hourly day night dose doses tablet tablets capsule capsules pill pills puffs drops"
)
PERIODS = _words("day days week weeks wk wks month months mo mos night nights hour hours hr hrs d")  # "20 mg x7 days"

# ---- Names, codes and letters ----

CODE_WORDS = _words("""
plate vin pnr locator code pin zip order account confirmation tracking reference ref invoice ticket booking id
passcode password serial case flight policy routing license passport ending ends digits visa mastercard amex card
verification
""")
LABELS = _words("""
room rm suite ste apartment apt gate highway hwy route rte interstate bus unit model extension ext port error status
http boeing form exit flight
""")
SEATS = _words("""
seat seats row gate room apt apartment unit exit terminal lot bay section suite building block class grade
""")
# Capitals that are said letter by letter though a vowel is among them.
LETTER_WORDS = _words("""
AARP ABC ACA ACH OBO EOB APY NYSE EOL PID SKU UUID GUID OTA OOM IRA IRAS MAOI SSRI NSAID UTM AVS ABA CVS ACL ACLU ADHD
AFAIK AFC AFK AI AKA AMA AOL APA API APR ASAP ASL ATM ATV AWS BAU BMI BTU BYOB CEO CIA CIO CMO COO CPA CPI CPU CTA CTO
DEA DIY DNA DOA DOB DOJ DUI EDT EFT EIN EKG EMT EOD EOF EPA EPS ERP ESG ESL ESPN EST ETA ETF EU EV EVP FAA FAQ FBI FDA
FDIC FOB FTE FYI GDPR GMO GOP GPA GPU GUI HBO HIV HOA HVAC IBM ICU ID IDE IEEE IM IOT IOU IP IPA IPO IQ IRC IRL IRS
ISBN ISO ISP ITV IV IVF IVR LA LAX LED LOL MBA MIT MLA MOU MRI NAACP NBA NCAA NDA NIH NPU NSA NYU OCD OCR OEM OKR OS
OTC OTP PDA PO POC POV PTA QA RNA ROI RSVP SEO SLA SOP SOS SSA SSO SUV TBA TIA TPU TSA UA UAE UAT NYC AQI AAA ECG EEG
EMG UCLA UFC UFO UHD UI UK UN UPC UPS URI URL USA USB USC USDA USMC USPS USS UTC UTI UV UX VIP VOIP XAI YMCA
""")
# Airports whose letters could be a word; others are letters anyway.
AIRPORTS = _words("DEN ORD BOS SEA MIA DAL HOU SAN SAT AUS PIT TUL SAC TUS MEM OAK BUF PHL TPA MCO IAH EWR LAS PDX")
BEFORE_AIRPORTS = _words("from to via into at in through")
LETTERS_OR_WORDS = _words("US IT WHO")
BEHIND_IT = _words("support team department dept desk staff help admin manager policy security systems guy services")
TWO_LETTER_WORDS = _words("""
AH AM AN AS AT AX BE RE BY DO EH GO HA HE HI HO IF IN IS IT LA ME MY NO OF OH OK ON OR OW OX SO TO UH UM UP US WE YA
YE YO
""")
# Three capitals in brackets that are a word behind a name: "Premium (NEW)".
SHOUTED = _words("NEW OLD ALL NOT NOW YES MAX MIN BIG HOT TOP ANY OUT OFF LOW ONE TWO SIX TEN DAY GIF JAR SIM PIN RAM")
SPECIAL_NAMES = _pairs("""
OK=okay | YoY=year over year | QoQ=quarter over quarter | MoM=month over month | M-F=Monday to Friday
Ctrl=Control | Cmd=Command | JSON=JSON | JPEG=JPEG | MPEG=MPEG | YAML=YAML | PhDs=P H D's
TL;DR=T L D R | C++=C plus plus | C#=C sharp | F#=F sharp | .NET=dot net | A+=A plus
WWI=World War one | WWII=World War two | LGBTQ+=L G B T Q plus
cd=C D | rm=R M | cp=C P | mv=M V | Rx=R X | pH=P H | NaCl=N A C L | NaOH=N A O H | KCl=K C L | HCl=H C L
""")
SPELLED_CODES = _words("license plate serial code confirmation reference booking tracking passport vin pnr")
STATES = _pairs("""
AL=Alabama | AK=Alaska | AZ=Arizona | AR=Arkansas | CA=California | CO=Colorado | CT=Connecticut | DE=Delaware
FL=Florida | GA=Georgia | HI=Hawaii | ID=Idaho | IL=Illinois | IN=Indiana | IA=Iowa | KS=Kansas | KY=Kentucky
LA=Louisiana | ME=Maine | MD=Maryland | MA=Massachusetts | MI=Michigan | MN=Minnesota | MS=Mississippi | MO=Missouri
MT=Montana | NE=Nebraska | NV=Nevada | NH=New Hampshire | NJ=New Jersey | NM=New Mexico | NY=New York
NC=North Carolina | ND=North Dakota | OH=Ohio | OK=Oklahoma | OR=Oregon | PA=Pennsylvania | RI=Rhode Island
SC=South Carolina | SD=South Dakota | TN=Tennessee | TX=Texas | UT=Utah | VT=Vermont | VA=Virginia | WA=Washington
WV=West Virginia | WI=Wisconsin | WY=Wyoming | DC=D C
""")
DOTTED_STATES = _pairs("""
ala=Alabama | ariz=Arizona | ark=Arkansas | calif=California | cal=California | colo=Colorado | conn=Connecticut
del=Delaware | fla=Florida | ga=Georgia | ill=Illinois | ind=Indiana | kan=Kansas | kans=Kansas | ky=Kentucky
la=Louisiana | md=Maryland | mass=Massachusetts | mich=Michigan | minn=Minnesota | miss=Mississippi | mo=Missouri
mont=Montana | neb=Nebraska | nebr=Nebraska | nev=Nevada | okla=Oklahoma | ore=Oregon | pa=Pennsylvania
penn=Pennsylvania | tenn=Tennessee | tex=Texas | va=Virginia | vt=Vermont | wash=Washington | wis=Wisconsin
wyo=Wyoming
""")
ROADS = _words("highway hwy route rte rt interstate us sr cr state i freeway exit")  # with a number: "SR 520 E"
ZIP_STATES = _words("OK IN OR ME HI OH PA MA ID LA AL DE CO MI")  # states only before a ZIP code
BEFORE_ROMANS = _words("""
chapter ch part pt vol war act volume section phase type level book title article stage class episode appendix bowl
scene schedule exhibit annex tier division mark fantasy psalm canto lesson module generation wrestlemania group factor
art sec rocky rambo godfather
""")
KINGS = _words("""
Henry Louis George Charles Edward William James Richard Elizabeth Philip Francis Pius Paul Benedict Napoleon Nicholas
Peter Catherine Alexander Leo Gregory
""")

# ---- Abbreviations ----

# In capitals, and behind the dot of an abbreviation, these begin no sentence.
GOES_ON = frozenset([*MONTHS, *DAYS, *SHORT_MONTHS, *SHORT_DAYS]) | ZONES | _words("Co Inc Corp Ltd Jr Sr Ave Blvd St")
# Behind letters with dots, as "U.S.", only these begin one.
SENTENCE_STARTS = _words("""
A An And Are At But Can Do For He Her His How I If In Is It It's Let My No Now On Our Please She So That The Then
There These They This Those To We What When Where Who Why Will Yes You Your
""")

TITLES = _pairs("mr=Mister | mrs=Missus | ms=Miz | messrs=Messieurs")
DOTTED_TITLES = _pairs("""
prof=Professor | rev=Reverend | hon=Honorable | gov=Governor | sen=Senator | rep=Representative | gen=General
col=Colonel | capt=Captain | lt=Lieutenant | sgt=Sergeant | cmdr=Commander | pres=President | mt=Mount | ft=Fort
""")
# Before "Code".
LAWS = _pairs("""
gov=Government | pen=Penal | veh=Vehicle | fam=Family | prob=Probate | lab=Labor | educ=Education | ins=Insurance
evid=Evidence | bus=Business | com=Commerce | elec=Election | nat=Natural | res=Resources | welf=Welfare | saf=Safety
""")
DOTTED = _pairs("""
etc=et cetera | approx=approximately | inc=Incorporated | ltd=Limited | corp=Corporation | jr=Junior | sr=Senior
dept=department | est=established | avg=average | bros=Brothers | assn=Association | univ=University | govt=government
misc=miscellaneous | min=minimum | max=maximum | temp=temperature | tel=telephone | ste=Suite | bldg=Building
apt=Apartment | incl=including | excl=excluding | ext=extension | intl=international | cont=continued | ave=Avenue
blvd=Boulevard | rd=Road | ln=Lane | hwy=Highway | pkwy=Parkway | sq=Square | co=Company | esq=Esquire | qtr=quarter
ea=each | attn=attention | appt=appointment | appts=appointments | qty=quantity | exp=expires | rte=Route
mgr=manager | asst=assistant | amt=amount | mfg=manufacturing | acct=account | wt=weight | ht=height | dist=distance
civ=Civil | crim=Criminal | proc=Procedure
hr=hour | hrs=hours | yr=year | yrs=years | med=medium | lg=large | sm=small | pkg=package | pkgs=packages
""")
PLACES = _pairs("""
apt=Apartment | ste=Suite | rm=Room | bldg=Building | hwy=Highway | rte=Route | fl=Floor | ext=extension
""")
WITHOUT_DOT = _pairs("""
vs=versus | y/y=year over year | q/q=quarter over quarter | m/m=month over month
w/o=without | w/out=without | w/=with | b/c=because | e.g=for example | i.e=that is | a.k.a=also known as
approx=approximately | etc=et cetera | ext=extension | c/o=care of | n\u00b0=number | p.a=per annum | cont'd=continued
gov't=government | int'l=international | y/o=years old | qty=quantity | attn=attention | appt=appointment
appts=appointments | pkg=package | pkgs=packages
""")
# Their dot ends no sentence.
NEVER_LAST = _words("incl excl attn tel med lg sm civ crim")
BEFORE_LETTERS = _words("""
plan vitamin option grade hepatitis team answer line choice size item question group model column table figure school
""")  # behind these, a letter is no initial
NUMBERED = _pairs("""
no=number | art=article | cl=clause | opt=option
nos=numbers | rm=room | vol=volume | para=paragraph | fig=figure | figs=figures | ch=chapter | pt=part
p=page | pp=pages | sec=section | eq=equation
""")
STREETS = _pairs("""
st=Street | ave=Avenue | blvd=Boulevard | rd=Road | ln=Lane | dr=Drive | ct=Court | pl=Place | hwy=Highway
pkwy=Parkway | ter=Terrace | cir=Circle | sq=Square
""")
LONG_STREETS = _words("street avenue boulevard road lane drive court place highway parkway terrace circle square way")
DIRECTIONS = _pairs("N=North | S=South | E=East | W=West | NE=Northeast | NW=Northwest | SE=Southeast | SW=Southwest")

# ---- Keyboards and the web ----

# Small letters that nobody says as a word.
SMALL_LETTERS = _words("""
npm npx ssh scp ftp sftp html css sql csv xml http https tcp udp dns vpn url urls api apis usb ssl tls aws gcp sdk cli
dvd tv asap fyi phd src pdf pdfs
""")

KEYS = _pairs("""
Ctrl=Control | Control=Control | Cmd=Command | Command=Command | Alt=Alt | Shift=Shift | Option=Option | Win=Windows
Del=Delete | Esc=Escape | Fn=Function | Tab=Tab | Enter=Enter | Delete=Delete
""")

SPELLED_ENDINGS = _words("io ai uk us eu tv co ca de fr au nz me ly gg fm xyz")
# What has versions: "Python 3.12".
SOFTWARE = _words("""
python py node nodejs node.js java jdk ruby rails go golang php rust swift kotlin typescript javascript scala perl ios
ipados macos watchos android ubuntu debian fedora rhel centos alpine windows chrome firefox safari edge opera django
flask fastapi react vue angular svelte next.js numpy pandas torch pytorch tensorflow cuda cudnn postgres postgresql
mysql mariadb sqlite redis mongodb elasticsearch kafka kubernetes k8s docker helm terraform ansible nginx apache tls
ssl http usb bluetooth hdmi npm pip yarn git gcc clang cmake linux kernel xcode gradle maven spring unity unreal
version versions release v bash zsh openssl openssh
""")
ENDINGS = SPELLED_ENDINGS | _words("com org net gov edu info app dev biz")
FILE_ENDINGS = _words("""
pdf py js ts tsx jsx html htm css json txt csv xml md jpg jpeg png gif svg webp mp3 mp4 mov avi wav ogg flac zip tar
gz doc docx xls xlsx ppt pptx exe sh bat sql db yml yaml toml ini conf cfg log lock cpp rs rb go java ipynb
""")
SPELLED_LABELS = (
    SPELLED_ENDINGS
    | FILE_ENDINGS
    | _words("www api irs faq aws url ibm usa ups usps fda fbi cia epa nih id ui ux uuid")
) - _words("me co zip doc gif yaml json jpeg flac tar bat toml ini conf log lock go java")
