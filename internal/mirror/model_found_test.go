package mirror

import "testing"

type foundStorm struct {
	name string
	seed uint64 // how many nodes there are (3, 4, 5), and from 3 on what a new directory is reported as
	ops  []stormOp
}

func playFound(t *testing.T, found []foundStorm) {
	base := memoryDir(t)
	for _, tc := range found {
		t.Run(tc.name, func(t *testing.T) {
			if diff, w := runModel(t, base, tc.seed, tc.ops); diff != "" {
				t.Errorf("%s\n%v", diff, w.story)
			}
		})
	}
}

// TestModelFound repeats what the model found, shrunk: each failed once.
func TestModelFound(t *testing.T) {
	t.Setenv(envModelLate, "1")
	playFound(t, []foundStorm{
		{"written on a standby shortly before its connection breaks", 0, []stormOp{
			{"pass", "", "", 3000 << 4}, {"write", "c", "", 1}, {"emit", "", "", 0}, {"pass", "", "", 500 << 4}, {"cut", "", "", 1}}},
		{"written on a standby, and by the master before it counts as foreign", 1, []stormOp{
			{"pass", "", "", 3000 << 4}, {"write", "c", "", 16}, {"emit", "", "", 7 << 4}, {"pass", "", "", 500 << 4}, {"save", "c", "", 16}, {"emit", "", "", 7 << 4},
			{"pass", "", "", 500 << 4}, {"save", "c", "", 1}, {"write", "c", "", 16}, {"emit", "", "", 7 << 4}}},
		{"written on a standby and not closed, and by the master", 0, []stormOp{
			{"pass", "", "", 3000 << 4}, {"write", "b", "", 16 + 2}, {"emit", "", "", 7 << 4}, {"pass", "", "", 500 << 4}, {"write", "b", "", 16 + 2}, {"emit", "", "", 7 << 4},
			{"pass", "", "", 500 << 4}, {"slow-write", "b", "", 1}, {"write", "b", "", 16 + 2}, {"emit", "", "", 7 << 4}, {"pass", "", "", 500 << 4}}},
		{"set aside, and its node leads before the others' state has come", 651078417318, []stormOp{
			{"mkdir", "d", "c/a/d", 844962}, {"split", "a", "a/a/b", 61976}, {"usurp", "b", "a", 853675}, {"usurp", "c/d", "b/d/a", 778740}}},
		{"extra in a comparison while it is owed, and its node leads before the answer", 757358841330, []stormOp{
			{"big", "a", "b", 317787}, {"kill", "d/a", "a/c", 1047895}, {"heal", "d", "a/c", 216584}, {"split", "d/a/c", "d", 552850}, {"mkdir", "b", "d", 363328},
			{"heal", "d/c", "d", 722946}, {"heal", "a/d/c", "b", 273418}, {"restart", "b", "d/b", 152352}, {"split", "c", "d/a/b", 270505}, {"rename", "a", "b/c", 272208},
			{"mkdir", "d", "c/b", 406483}, {"heal", "a/d", "d", 335279}, {"emit", "d/a/a", "b", 756665}, {"split", "b/a/a", "a", 803760}}},
		{"a directory removed on a standby, given back, and its node leads", 649899852826, []stormOp{
			{"mkdir", "c", "b", 275669}, {"heal", "c/a/d", "b", 57494}, {"emit", "d", "c/c", 937967}, {"rmtree", "c", "c", 994574}, {"pass", "d/b/b", "d/c/c", 50992},
			{"big", "b", "d/d", 26308}, {"heal", "b/a/a", "a/c/b", 971068}, {"pass", "a/c/b", "d/a", 23784}, {"pass", "b/b", "d/b/b", 985222}, {"sync", "c", "d/c", 485464},
			{"slow-write", "a", "a/a/c", 863953}, {"pass", "d/a", "b", 702515}, {"restart", "d", "c", 220901}, {"usurp", "c", "c/d/c", 894050}, {"switch", "b", "c", 417770}}},
		{"a directory removed, and told again by a survivor", 224256785289, []stormOp{
			{"mkdir", "d", "d", 897930}, {"heal", "c", "b/d/d", 623412}, {"pass", "c", "d", 910800}, {"sync", "c", "d/c/b", 624567}, {"restart", "a/c", "c", 586935},
			{"mkdir", "d/d/a", "d/a", 661221}, {"mkdir", "a/a/c", "a/d/d", 427490}, {"heal", "c/b/b", "a", 467454}, {"replace-dir", "a/b", "a/d/a", 108400},
			{"restart", "d", "a/b/d", 159846}, {"remove", "d", "c/b", 202693}, {"split", "a", "d/d/a", 339420}, {"kill", "b/d/c", "a", 256354}}},
		{"replaced where the trash has a file in the place of its directory", 393384292467, []stormOp{
			{"write", "d", "a/b", 548940}, {"split", "a", "a/d/c", 360511}, {"heal", "d", "a/a/c", 286595}, {"mkdir", "d", "d", 107832}, {"sync", "b/c", "b/d/c", 996665},
			{"symlink", "d/b", "a/d", 643028}, {"slow-write", "d/b", "d/d", 200331}}},
		{"written on a standby that is killed before it counts as foreign", 325390969185, []stormOp{
			{"mkdir", "d", "b", 262443}, {"emit", "b/c", "c/a/b", 848848}, {"split", "d", "a", 629220}, {"heal", "d", "c/b/a", 996462}, {"write", "d/c", "a/d/c", 96645},
			{"kill", "c/a/d", "b", 480609}}},
		{"made shortly before an orderly end", 934380388642, []stormOp{
			{"mkdir", "a", "c", 366644}, {"emit", "d/b/b", "c", 709807}, {"split", "d/a", "b/a/d", 725301}, {"mkdir", "a/b", "d/a/a", 943018}, {"stop", "a/d", "a", 613558}}},
		{"set aside: a rename of a file to where a directory is by now", 755749681751, []stormOp{
			{"save", "d", "c/b", 931033}, {"replace-dir", "d", "c", 745843}, {"cut", "a/a/c", "b/d", 347245}, {"write", "d/a", "d/a", 564147}, {"emit", "c/a", "d", 366909},
			{"split", "d/d/d", "b/b/b", 744117}, {"heal", "d", "c/d", 289873}, {"split", "c/c/c", "c/a/c", 139144}}},
		{"written on the losing side, and its node leads again at once", 541194647203, []stormOp{
			{"split", "d/d/a", "b/d", 1012784}, {"slow-write", "a", "a", 660454}, {"split", "a/c/b", "d/a/c", 1041920}, {"usurp", "b/b", "c/a", 256847}}},
		{"set aside on the losing side, whose node leads before the answers", 512118214421, []stormOp{
			{"heal", "d", "b/d", 705621}, {"split", "b/d/b", "d/b/b", 71628}, {"restart", "a", "c", 333001}, {"split", "d/c", "d/b", 999095}, {"write", "a", "a", 314187},
			{"heal", "b", "d/d", 214867}, {"heal", "c/a/c", "d/a/b", 834442}, {"usurp", "d/a/a", "b/c/a", 309438}}},
		{"an extra that is owed, and the connection breaks before the answer", 1014096553984, []stormOp{
			{"save", "d", "d/c", 714456}, {"split", "a/c/d", "a", 854691}, {"pass", "a", "c/c/b", 594452}, {"mkdir", "a", "c", 456770}, {"split", "c", "a/b", 685452}}},
		{"the volume's own directory in a tail", 323511440524, []stormOp{
			{"write", "b", "c", 231708}, {"heal", "a/d/c", "c", 994977}, {"restart", "b/c", "b", 302668}, {"heal", "c", "b", 101731}, {"split", "b/c", "c", 157095}, {"usurp", "b/c", "a/b", 251863}}},
		{"removed by a master that leads again, while it takes from a survivor", 552756883697, []stormOp{
			{"write", "b", "c", 447941}, {"usurp", "a/a/c", "c/d/d", 232771}, {"split", "c/d", "c/a", 812253}, {"rmtree", "b", "c", 27755}, {"split", "d/a/c", "a/b/d", 920116}}},
		{"written on a standby, and renamed by the master", 979692982919, []stormOp{
			{"write", "b", "c/a/d", 464358}, {"emit", "b/d/b", "d/b", 320681}, {"write", "b", "a/a", 703363}, {"rename", "b", "a", 370677}}},
		{"given by a master that had not read of it and is lost, and another leads", 342088687041, []stormOp{
			{"switch", "c/b/b", "b/a", 403328}, {"split", "a/c/b", "a/c/b", 1001664}, {"restart", "c", "a/c/c", 99948}, {"write", "d", "b/a", 347225}, {"mkdir", "d", "b", 373992},
			{"split", "d/d/b", "b/d", 665050}, {"save", "b", "a/b/b", 794701}}},
		{"given by a master that had not read of it and is lost, and who got it leads", 342088687194, []stormOp{
			{"slow-write", "b", "d/c", 818818}, {"slow-write", "b", "a", 938347}, {"pass", "c/c", "a/b/b", 127134}, {"split", "d", "d", 584857}, {"split", "b/c", "b/d/d", 87680},
			{"stop", "c", "a/c/a", 374398}}},
		{"read for one standby before and for another after a change whose record never came", 355079037737, []stormOp{
			{"stop", "c/d", "b/b/b", 950669}, {"write", "d", "c/d/a", 1041105}, {"sync", "d/d/c", "a/c", 674408}, {"write", "d", "b/c", 305809},
			{"restart", "b/a/d", "a/d", 513358}, {"split", "b", "d", 447862}}},
		{"made while the agent of a node did not run that leads next", 569388958360, []stormOp{
			{"restart", "d/b/b", "d", 531537}, {"kill", "c/c/c", "a", 873106}, {"mkdir", "a", "c/d/b", 611846}, {"heal", "c/d/c", "c/d/a", 633575},
			{"restart", "b/d/b", "d", 781103}, {"split", "b", "a/b/a", 284398}}},
	})
}

// TestModelFoundDirs repeats what was found where directories are renamed, and notifications are read at once.
func TestModelFoundDirs(t *testing.T) {
	t.Setenv(envModelAll, "1")
	playFound(t, []foundStorm{
		{"a directory renamed on the losing side, and another made under its old name", 232714379864, []stormOp{
			{"split", "c/d", "d", 116889}, {"mkdir", "d", "d/d", 1012801}, {"write", "d/d", "a/a", 52794}, {"replace-dir", "d", "c", 763542}, {"sync", "d/d", "a", 410242}}},
		{"a directory renamed on the losing side, and a file made under its old name", 232714383059, []stormOp{
			{"mkdir", "b", "b/a", 549247}, {"write", "b/c", "c", 678398}, {"split", "d/c", "c/c/c", 335003}, {"save", "d", "d/d", 186268}, {"split", "b/a", "a/b", 700544},
			{"replace-dir", "d", "a", 1008348}, {"split", "a/d", "c/d", 60883}, {"rename", "b", "d/b", 291122}, {"write", "b", "b/d", 586797}}},
		{"a directory moved into another on the losing side, and a file made under its old name", 232714380287, []stormOp{
			{"mkdir", "d", "b/b", 672704}, {"mkdir", "a", "d/c", 87765}, {"replace-dir", "d", "b", 149056}, {"mkdir", "b/d", "d/c/c", 785056}, {"pass", "c/c/c", "d", 629883},
			{"split", "d", "c/a", 37261}, {"rename", "b", "a/d", 517341}, {"big", "b", "b/b", 306310}}},
		{"a file and a directory exchanged on the losing side", 232714380519, []stormOp{
			{"big", "a", "b", 957041}, {"mkdir", "d", "d", 44990}, {"save", "d/d", "a/d", 885151}, {"kill", "d/c", "d/d/c", 939475}, {"cut-later", "a", "a", 365768},
			{"exchange", "a", "d", 734023}, {"split", "d/c", "d/c/d", 989471}}},
		{"written while the agent of a node did not run that leads next, and by a survivor", 592587978441, []stormOp{
			{"pass", "b/b/b", "c", 706934}, {"mkdir", "d", "a/c/c", 165344}, {"cut", "d", "c/d/a", 76120}, {"mkdir", "b", "a/c", 598822}, {"save", "b/b", "a", 920460},
			{"pass", "b", "b/d", 723782}, {"rename", "b", "a", 544351}, {"kill", "b", "a", 804155}, {"mkdir", "d/a", "b", 677400}, {"kill", "d", "c", 638044},
			{"write", "b", "c", 343723}, {"kill", "c/b", "c/c", 631272}, {"save", "b", "a", 712390}}},
		{"applied, rewritten in place by the next master, and taken from a survivor by that", 232714380067, []stormOp{
			{"save", "b", "d", 977111}, {"mkdir", "c", "d/d", 936411}, {"split", "b/c", "d", 693855}, {"heal", "b", "d/b", 614736}, {"write", "b", "c", 467821},
			{"split", "d/b", "c/c", 681006}, {"pass", "a/d", "d/c/a", 376818}, {"write", "c/c", "b", 1043803}, {"write", "b", "a", 663149}, {"heal", "c/c/d", "c/a", 8275},
			{"switch", "a/a/b", "d/b/a", 715592}}},
		{"a large file that only the side that lost has", 396537472139, []stormOp{
			{"kill", "b", "c/d/d", 532476}, {"big", "a", "b/c/a", 780149}, {"split", "d/b/a", "b", 77161}}},
		{"a large file that only the side that lost has, and once more", 396537472139, []stormOp{
			{"kill", "b", "c/d/d", 532476}, {"big", "a", "b/c/a", 780149}, {"split", "d/b/a", "b", 77161}}},
		{"set aside: a file renamed away, and something below a directory that took its name", 535473492798, []stormOp{
			{"pass", "a/b/c", "d/a", 1016810}, {"split", "d", "a/a/b", 98086}, {"mkdir", "c", "c/d/a", 546628}, {"write", "c", "a/c", 813540},
			{"replace-dir", "c", "d", 529086}, {"slow-write", "c/b", "a", 147945}}},
		{"a large file that only the side that lost has, and a master after the one that never had it renames what it has", 17218480759, []stormOp{
			{"save", "a", "a/c/d", 922598}, {"split", "b", "b/a/a", 307289}, {"write", "c", "b/a", 683257}, {"heal", "b", "a", 770711}, {"big", "c", "d/d", 5069},
			{"stop", "c", "b/c", 185741}, {"switch", "b/d/c", "c", 769102}, {"replace-dir", "c", "a", 603000}}},
		{"a directory renamed by hand where the master makes another, and its node leads before that counts as foreign", 6, []stormOp{
			{"pass", "", "", 3000 << 4}, {"mkdir", "b", "", 16}, {"pass", "", "", 500 << 4}, {"rename", "b", "c", 1}, {"mkdir", "c", "", 16}, {"mkdir", "c/a", "", 16},
			{"split", "", "", 2 << 4}, {"usurp", "", "", 0}, {"usurp", "", "", 0}, {"heal", "", "", 0}}},
		{"a large file that another master never had, whose followers are survivors of who has it", 477256755725, []stormOp{
			{"mkdir", "d", "c/d/b", 68570}, {"restart", "a/b/c", "b/d", 366288}, {"big", "d/d", "d", 746807}, {"split", "a/c", "d", 410026}, {"sync", "c/d", "b/a", 944090},
			{"split", "b/b/b", "b/c/d", 366624}, {"emit", "b/b", "c/a/c", 199869}}},
		{"a large file over what its survivors have, who owe it to the next master", 955925908229, []stormOp{
			{"restart", "a/b/c", "a/a", 89142}, {"restart", "c/c", "b", 631812}, {"save", "d", "b", 676477}, {"rename", "d", "c", 256771}, {"emit", "a/d", "a", 1046640},
			{"split", "d", "b", 470546}, {"big", "c", "b", 72806}, {"split", "c/d/a", "a/d", 794516}, {"emit", "b/a/a", "c", 453174}}},
		{"a large file that its survivor does not have either, for a rename came before it", 17218481123, []stormOp{
			{"split", "a/a/d", "b/d", 907438}, {"split", "a/b", "a/c", 838611}, {"pass", "c/d/a", "d/d/a", 521784}, {"big", "a", "b/c/b", 265919},
			{"rename", "a", "d", 766899}, {"split", "c/b", "d/a", 1875}, {"sync", "c/c", "b/d", 912955}}},
		{"a directory and a file exchanged by hand, and the master writes the file before that counts as foreign", 261986703588, []stormOp{
			{"rename", "a", "b/b", 249530}, {"save", "d", "d/d/a", 802619}, {"mkdir", "b", "b", 162469}, {"mkdir", "b/c", "b/d/b", 647675}, {"emit", "b/c/c", "a", 56404},
			{"symlink", "b/c", "b", 934314}, {"exchange", "b/c", "d", 862652}, {"rename", "b/c", "c", 379297}, {"save", "d/b", "c/b", 24469},
			{"sync", "c/a/d", "b/d", 791221}, {"exchange", "c", "d", 393742}, {"write", "c", "d/c/d", 1000954}, {"split", "b", "c/d/a", 586151}}},
	})
}

// TestModelFoundLate repeats what was found where directories are renamed, and notifications come late.
func TestModelFoundLate(t *testing.T) {
	t.Setenv(envModelAll, "1")
	t.Setenv(envModelLate, "1")
	playFound(t, []foundStorm{
		{"a directory renamed on the losing side, and removed there by hand", 378843825373, []stormOp{
			{"mkdir", "a", "c", 894264}, {"mkdir", "a/d", "c", 259262}, {"pass", "b", "a/c", 285589}, {"write", "a/d/a", "b", 573270}, {"emit", "a/a/a", "b", 213568},
			{"split", "a/a/c", "a/b", 648232}, {"mkdir", "b", "a", 229155}, {"pass", "a/a", "a/d", 438307}, {"rename", "a/d", "b/c", 298322}, {"pass", "d/c/b", "a", 437504},
			{"rmtree", "b", "b/d/b", 635143}}},
		{"given ahead of its record to who is killed, and another leads", 352211415952, []stormOp{
			{"switch", "a", "b", 875502}, {"split", "c/b", "b", 87277}, {"write", "d", "a/d", 107407}, {"write", "d", "b", 716491}, {"kill", "c", "b/d/b", 323763}}},
		{"the time of the volume's own directory where something was written by hand, taken by a new master", 628540800502, []stormOp{
			{"split", "a/d/d", "a/d/a", 462217}, {"switch", "a/a/c", "b", 577317}, {"split", "d/d", "c/b", 1012985}, {"restart", "b", "c/b", 913887},
			{"kill", "d", "c/d/b", 903742}, {"write", "d", "c/d/d", 809315}, {"pass", "c/b/a", "c", 631123}, {"usurp", "a/a", "d/b", 126756}, {"pass", "a", "b/c", 390493},
			{"split", "a/a", "d", 767779}, {"pass", "c", "d", 528028}, {"write", "a", "a", 416399}, {"split", "a/c/a", "b/b", 174511}}},
		{"the time of the volume's own directory given with a comparison, and another leads", 628540801615, []stormOp{
			{"mkdir", "a", "d/d", 991076}, {"pass", "c/d", "a", 119400}, {"split", "b/b/b", "d/d", 170420}, {"heal", "d", "b/a", 303757}, {"split", "c/b/d", "c", 711490},
			{"mkdir", "b", "c", 974760}, {"restart", "c/d/c", "b/a/a", 1041684}, {"mkdir", "a/d", "c/c/b", 377587}, {"heal", "a/a", "c/a", 627544},
			{"restart", "d/d/a", "a/b", 578366}, {"pass", "c/a", "a/b/d", 659488}, {"cut", "c/c", "b/b", 551466}, {"split", "d", "b/b/b", 531975},
			{"exchange", "a/d", "b", 674793}, {"cut-later", "a/d/d", "b", 230785}, {"pass", "c/a", "d", 621482}, {"split", "b/a", "a/a/b", 791110},
			{"slow-write", "d", "b", 167016}}},
		{"the time of the volume's own directory given to who is killed, and another leads", 683905206587, []stormOp{
			{"switch", "b/a/c", "b/a", 393871}, {"restart", "b/a/b", "c", 161865}, {"stop", "b", "a/a", 998067}, {"split", "d/c/c", "d/a/b", 301253},
			{"usurp", "a/c/b", "b/a", 530503}, {"usurp", "c/c/b", "c", 941515}, {"usurp", "a", "d/b", 934776}, {"symlink", "a", "c/b", 966095}, {"split", "c", "a", 177329},
			{"mkdir", "c", "a", 646148}, {"split", "b/c/c", "c/b/a", 1041794}, {"kill", "b/b/a", "b/a", 523514}}},
		{"the time of the volume's own directory given before the stream broke, and another leads", 743783083099, []stormOp{
			{"split", "b/a", "a/b/d", 824978}, {"pass", "c", "a", 562737}, {"write", "c", "c", 47851}, {"pass", "c/b/b", "c/d", 291796}, {"heal", "c/c/c", "a/d", 617658},
			{"pass", "c/c/a", "d/d", 949319}, {"split", "b/b", "c/a", 263831}, {"pass", "a", "a/b/d", 494522}, {"write", "d", "b", 178676}, {"cut", "a/a", "b/a", 1034992},
			{"heal", "c/c/c", "c", 83474}, {"split", "d/a", "a/b", 759909}}},
	})
}
